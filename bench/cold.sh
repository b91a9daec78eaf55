#!/usr/bin/env bash
# The whole `finetune`, and `sft.sh`, in the states that users meet: warm, again in the same output folder, in a new
# container, after a boot.
#
# usage: bench/cold.sh MODEL_DIR [OUT]    (OUT: build/cold; one Markdown table per state, with JSON next to it)
# On a CUDA machine, as root: the page cache is dropped. Set PYTHON=... if `python3` does not have torch. Kernels and
# the list of libraries are created first if this checkout has none, as `docker build` does for the image.
set -Eeuo pipefail
cd "$(dirname "$0")/.."

model="${1:?usage: bench/cold.sh MODEL_DIR [OUT]}"
out="${2:-build/cold}"
python="${PYTHON:-python3}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

[ -e qwen2/compiled/ptxas-version ] || "$python" image/compile_kernels.py "$model"
[ -e entrypoint/read_ahead.txt ] || "$python" image/list_libraries.py entrypoint/read_ahead.txt

"$python" bench/peers.py "$model" --only finetune --state again --repeat 1 --out "$out/first" >/dev/null || true # fills the page cache
for state in warm again container cold; do
  echo "$state:"
  "$python" bench/peers.py "$model" --state "$state" --only "${ONLY:-finetune,fast}" --repeat "${REPEAT:-2}" --once "" \
    --out "$out/$state"
done
