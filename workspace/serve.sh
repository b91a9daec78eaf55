#!/usr/bin/env bash
# Serve the model at an OpenAI-compatible address: serve.sh --adapter newest
# zh: 启动兼容 OpenAI 的服务：serve.sh --adapter newest
#
# It runs `swift deploy` on configs/serve.yaml. Base and adapters are chosen by the request's model name. Without a key
# (MIRROR_API_KEY) only this machine is listened to. Options behind serve.sh go to ms-swift and win over the file.
set -euo pipefail

here="$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)"
export PYTHONSAFEPATH=1 # as -I below, for what Python starts: a json.py in this folder is not Python's own

# One GPU, the first; vLLM spreads over all that are visible (BACKEND=vllm --vllm_tensor_parallel_size 2).
backend="${BACKEND-}"
[[ ${backend,,} == vllm ]] || export CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES-0}"

exec python -I -m finetune.commands.serve --config "$here/configs/serve.yaml" "$@"
