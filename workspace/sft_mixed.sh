#!/usr/bin/env bash
# Fine-tune on the 50 rows among 500 general ones (the article's 3.2); without a network: sft_mixed.sh --general FILE
# zh: 把 50 行身份数据与 500 行通用数据混合微调（原文 3.2 节）；无网络时用 sft_mixed.sh --general FILE
#
# The general rows are drawn from AI-ModelScope/alpaca-gpt4-data-zh on the ModelScope hub, or from a local file of the
# same form (instruction, input, output). The run is configs/sft_mixed.yaml; all else is as with sft.sh.
set -euo pipefail

here="$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)"
export PYTHONSAFEPATH=1 # as -I below, for what Python starts: a json.py in this folder is not Python's own

exec python -I -m finetune.commands.sft sft_mixed --config "$here/configs/sft_mixed.yaml" "$@"
