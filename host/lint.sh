#!/usr/bin/env bash
# Runs every linter over every file of its kind; called by `make lint` and by pre-commit. Fails if any linter fails.
#
# usage: host/lint.sh [NAME…]   only these linters, by the name that each prints; without a name: all
#
# Linters come from .venv (requirements/test.lock), which `make lint` creates, else from PATH.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
PATH=$PWD/.venv/bin:$PATH

failed=0
asked=("$@") known=,
# usage: lint NAME COMMAND… -- run a linter if it was requested, report whether it passed, and record a failure
lint() {
  local name=$1
  shift
  known+="$name,"
  if ((${#asked[@]})) && [[ ",$(printf '%s,' "${asked[@]}")" != *",$name,"* ]]; then return; fi
  if "$@"; then echo "$name: ok"; else
    echo "$name: FAILED" >&2
    failed=1
  fi
}

mapfile -t shell_files < <(git ls-files -co --exclude-standard | while read -r file; do
  [[ -f $file ]] && head -c 64 "$file" | head -n 1 | grep -qaE '^#!.*\b(ba)?sh\b|^# shellcheck shell=' && echo "$file"
done)
mapfile -t yaml_files < <(git ls-files -co --exclude-standard '*.yml' '*.yaml')

lint shellcheck shellcheck -x "${shell_files[@]}"
lint shfmt shfmt -d -i 2 -ci "${shell_files[@]}"
lint hadolint hadolint Dockerfile Dockerfile.vllm
lint 'ruff check' ruff check -q .
lint 'ruff format' ruff format -q --check .
lint mypy mypy --no-error-summary common qwen2 healthchecks finetune standin weights image host/licences.py host/messages.py
lint yamllint yamllint -s "${yaml_files[@]}"
if compgen -G '.github/workflows/*.yml' >/dev/null; then
  lint workflows check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
fi
if compgen -G '.github/ISSUE_TEMPLATE/bug*.yml' >/dev/null; then
  lint 'issue forms' check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug*.yml
fi
for name in "${asked[@]}"; do
  [[ $known == *",$name,"* ]] || {
    echo "error: $name: no linter of this name; there are ${known:1:-1}" >&2
    exit 2
  }
done
exit "$failed"
