#!/usr/bin/env bash
# Fine-tune the model on self_cognition.json, or on your own file: sft.sh --dataset my.json
# zh: 用 self_cognition.json 微调模型，或用自己的数据：sft.sh --dataset my.json
#
# It checks the data, makes a folder for the run below $OUTPUT_DIR, and runs ms-swift on configs/sft.yaml, where every
# parameter is explained. Options behind sft.sh go to ms-swift and win over the file. --show prints the `swift sft` line
# that this is, --help the rest.
set -euo pipefail

here="$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)"
export PYTHONSAFEPATH=1 # as -I below, for what Python starts: a json.py in this folder is not Python's own

exec python -I -m finetune.commands.sft sft --config "$here/configs/sft.yaml" "$@"
