# How the scripts of this folder speak to a person, in the language of the shell; sourced by them.
# shellcheck shell=bash

# shellcheck source=entrypoint/log.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/../entrypoint/log.sh" # mirror_say

# usage: say ENGLISH CHINESE -- a line on stderr that begins with the script's name
say() { printf '%s: %s\n' "$(basename -- "$0" .sh)" "$(mirror_say "$@")" >&2; }
# usage: die CODE ENGLISH CHINESE -- what is wrong, why, what to do; ends the script
die() {
  mirror_say "error: $2" "错误：$3" >&2
  exit "$1"
}
