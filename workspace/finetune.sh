#!/usr/bin/env bash
# Fine-tune, then verify what came of it: sft.sh and verify.sh in one, the weights loaded once.
# zh: 先微调，再评测效果：相当于 sft.sh 加 verify.sh，权重只加载一次
#
# Options are those of sft.sh. Exit code 0: trained, and the verdict is pass.
# The line below leaves the forward pass to this script, which runs it on the model that it then trains.
# health: fast
set -euo pipefail

here="$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)"
export PYTHONSAFEPATH=1 # as -I below, for what Python starts: a json.py in this folder is not Python's own

exec python -I -m finetune.commands.finetune sft --config "$here/configs/sft.yaml" --verify-config "$here/configs/verify.yaml" "$@"
