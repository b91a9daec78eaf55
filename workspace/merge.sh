#!/usr/bin/env bash
# Merge the newest adapter into its base: a model folder that any program loads; merge.sh DIR takes another
# zh: 把最新的适配器合并到基座模型，得到任何程序都能加载的模型目录；merge.sh DIR 合并指定的适配器
#
# It runs `swift export --merge_lora` and asks adapter and merged model 20 questions: the answers must be the same.
# --output DIR names the folder, --help has the rest.
set -euo pipefail

here="$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)"
export PYTHONSAFEPATH=1 # as -I below, for what Python starts: a json.py in this folder is not Python's own

export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0}"

exec python -I -m finetune.commands.merge --questions "$here/questions" "$@"
