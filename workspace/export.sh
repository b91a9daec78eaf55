#!/usr/bin/env bash
# Export the newest adapter as one GGUF file for Ollama, llama.cpp and LM Studio; export.sh DIR takes another
# zh: 把最新的适配器导出为一个 GGUF 文件，供 Ollama、llama.cpp 和 LM Studio 使用；export.sh DIR 导出指定的适配器
#
# It merges and quantizes (--quant q4_k_m, q5_k_m, q8_0 or f16), writes a Modelfile and a card beside the file, and has
# llama.cpp prove it. --output DIR names the folder, --help has the rest.
set -euo pipefail

here="$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)"
export PYTHONSAFEPATH=1 # as -I below, for what Python starts: a json.py in this folder is not Python's own

export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0}"

exec python -I -m finetune.commands.export --questions "$here/questions" "$@"
