#!/usr/bin/env bash
# Fine-tune, then verify what came of it: sft.sh and verify.sh on the run just made.
#
# Options go to sft.sh. Exit code 0: trained, and the verdict is pass.
set -euo pipefail

here="$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)"
export PYTHONSAFEPATH=1 # a json.py in the working folder must not take the place of the one of Python

# usage: main [OPTION...] ; a function, because bash reads a script as it goes, and this one may be edited meanwhile
main() {
  local option adapter
  for option in "$@"; do
    case "$option" in
      -h | --help | --show) exec "$here/sft.sh" "$@" ;; # nothing is trained, so there is nothing to verify
    esac
  done

  adapter="$(mktemp)"
  # shellcheck disable=SC2064 # the name as it is now: at the end the local variable is gone
  trap "rm -f -- '$adapter'" EXIT
  trap 'exit 143' TERM # wait for the trainer, which saves first, instead of dying beside it

  "$here/sft.sh" --adapter-to "$adapter" "$@"
  "$here/verify.sh" --adapter "$(cat -- "$adapter")"
  exit
}

main "$@"
