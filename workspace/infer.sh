#!/usr/bin/env bash
# Ask the model: infer.sh "你是谁?", or a conversation without a question; --adapter newest is the fine-tuned one
# zh: 向模型提问：infer.sh "你是谁?"；不带问题则进入对话；--adapter newest 使用微调后的模型
#
# The fast lane answers, or `swift infer` where an option is ms-swift's own (-v says which), by configs/infer.yaml. Options
# behind infer.sh are ms-swift's and win over the file. The line below leaves the forward pass to the first answer.
# health: fast
set -euo pipefail

here="$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)"
export PYTHONSAFEPATH=1 # as -I below, for what Python starts: a json.py in this folder is not Python's own

exec python -I -m finetune.commands.infer --config "$here/configs/infer.yaml" "$@"
