# Log lines of the container's start, `LEVEL[time] message` on stderr; sourced by entrypoint.sh and by hooks in start.d/.
# shellcheck shell=bash

# usage: mirror_log LEVEL MESSAGE...
# Colour only for a person: stderr is a terminal and NO_COLOR (https://no-color.org) is not set.
mirror_log() {
  local level="$1" colour=32 now
  shift
  case "$level" in
    ERROR) colour=31 ;;
    WARNING) colour=33 ;;
  esac
  printf -v now '%(%H:%M:%S)T' -1
  if [ -t 2 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
    printf '\033[%sm%s\033[0m[%s] %s\n' "$colour" "$level" "$now" "$*" >&2
  else
    printf '%s[%s] %s\n' "$level" "$now" "$*" >&2
  fi
}

# usage: mirror_say ENGLISH CHINESE ; prints one of them, with the same choice of language as common/i18n.py
mirror_say() {
  local language="${MIRROR_LANG:-${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}}"
  case "${language,,}" in
    zh | zh[_.@-]*) printf '%s\n' "$2" ;;
    *) printf '%s\n' "$1" ;;
  esac
}

# usage: mirror_note MESSAGE... | mirror_warn MESSAGE... | mirror_error MESSAGE...
mirror_note() { mirror_log INFO "$@"; }
mirror_warn() { mirror_log WARNING "$@"; }
mirror_error() { mirror_log ERROR "$@"; }
