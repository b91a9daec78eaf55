#!/usr/bin/env bash
# Ask the model: infer.sh "你是谁?", or a conversation without a question; --adapter newest is the fine-tuned one
#
# It runs `swift infer` on configs/infer.yaml. Options behind infer.sh go to ms-swift and win over the file.
set -euo pipefail

here="$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)"
export PYTHONSAFEPATH=1 # as -I below, for what Python starts: a json.py in this folder is not Python's own

[ -n "${NPROC_PER_NODE:-}" ] || export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0}"

exec python -I -m finetune.commands.infer --config "$here/configs/infer.yaml" "$@"
