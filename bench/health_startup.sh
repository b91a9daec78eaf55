#!/usr/bin/env bash
# Times the full start-up check on a CUDA machine, without Docker: seconds to ready, peak memory, memory released.
#
# usage: bench/health_startup.sh MODEL_DIR [RUNS]    (RUNS: 3; JSON of every run goes to $OUT, default build/health)
# Needs python (PYTHON=...) with torch, tokenizers, jinja2, packaging, nvidia-ml-py. The first run reads the weights
# into the page cache and compiles Triton's kernels; it is shown but not counted.
set -Eeuo pipefail
cd "$(dirname "$0")/.."

export MODEL_DIR="${1:?usage: bench/health_startup.sh MODEL_DIR [RUNS]}"
runs="${2:-3}"
python="${PYTHON:-python3}"
out="${OUT:-build/health}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
export MIRROR_RUN_DIR="$work/run" OUTPUT_DIR="$work/output" MIRROR_DEVICE=cuda MIRROR_LOCK="$work/lock"

# This machine's packages differ from the image's: use a lock of the installed ones for the duration of the check.
"$python" -c '
import importlib.metadata as m
print("\n".join(sorted({f"{d.name}=={d.version.split(chr(43))[0]}" for d in m.distributions() if d.name})))
' >"$MIRROR_LOCK"

used() { nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits | head -n 1; }

echo "GPU: $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1)"
status=0
for ((run = 0; run <= runs; run++)); do
  before="$(used)"
  begin="$(date +%s.%N)"
  "$python" -m healthchecks startup --level full >"$work/table" || status=1
  end="$(date +%s.%N)"
  sleep 1 # the driver takes a moment to report a process gone
  after="$(used)"
  "$python" -m healthchecks report --json >"$out/run$run.json" || true
  echo
  echo "run $run$([ "$run" -gt 0 ] || echo ' (not counted)'): $(awk "BEGIN{printf \"%.2f\", $end - $begin}") s from process" \
    "start to end; GPU memory in use before $before MiB, after $after MiB"
  cat "$work/table"
done
echo
probe="$(
  "$python" - "$python" <<'PY'
import statistics, subprocess, sys, time
code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from healthchecks.probe import main; sys.exit(main())"
def once():
    begin = time.perf_counter()
    subprocess.run([sys.argv[1], "-I", "-S", "-c", code, "."], stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin
print(f"{1000 * statistics.median(once() for _ in range(21)):.0f}")
PY
)"
echo "healthcheck probe: median of 21, $probe ms"
exit "$status"
