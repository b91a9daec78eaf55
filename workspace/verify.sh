#!/usr/bin/env bash
# Show what the newest adapter changed: every question, the answer before and after, figures and a verdict.
# zh: 查看最新适配器带来的变化：逐题列出微调前后的回答、各项指标和结论
#
# verify.sh DIR looks at another checkpoint or run. Reports are left in the run's folder, in verify/. --help has the rest.
set -euo pipefail

here="$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)"
export PYTHONSAFEPATH=1 # as -I below, for what Python starts: a json.py in this folder is not Python's own

exec python -I -m finetune.commands.verify --config "$here/configs/verify.yaml" "$@"
