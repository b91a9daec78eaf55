#!/usr/bin/env bash
# Every linter over every file of its kind; called by `make lint` with the linters on PATH. Fails if any of them does.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

failed=0
# usage: lint NAME COMMAND… -- run a linter, say whether it passed, remember when it did not
lint() {
  local name=$1
  shift
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
lint hadolint hadolint Dockerfile
lint 'ruff check' ruff check -q .
lint 'ruff format' ruff format -q --check .
lint mypy mypy --no-error-summary qwen2 healthchecks finetune standin weights requirements/split.py
lint yamllint yamllint -s "${yaml_files[@]}"
if compgen -G '.github/workflows/*.yml' >/dev/null; then
  lint workflows check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
fi
exit "$failed"
