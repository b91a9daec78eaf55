#!/usr/bin/env bash
# Starts the container: hooks, start-up checks, then the command; tini runs it as ENTRYPOINT, and it may be sourced.
#
# Modelled on docker-library/postgres: small functions, each below its usage line. Sourcing it runs nothing, so a user's
# own script can reuse them.
set -Eeuo pipefail

MIRROR_ENTRYPOINT_DIR="${MIRROR_ENTRYPOINT_DIR:-$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")}"
# Where the user's scripts are (the image's WORKDIR).
MIRROR_WORKSPACE="${MIRROR_WORKSPACE:-/root}"
# shellcheck source=entrypoint/log.sh
source "$MIRROR_ENTRYPOINT_DIR/log.sh"

# usage: _is_sourced ; true when this file was sourced by another script
# https://unix.stackexchange.com/a/215279 : the last frame is `main` only when the file itself is run.
_is_sourced() {
  [ "${#FUNCNAME[@]}" -ge 2 ] && [ "${FUNCNAME[0]}" = '_is_sourced' ] && [ "${FUNCNAME[1]}" = 'source' ]
}

# usage: mirror_run_hooks DIRECTORY
# In order of name: .sh files are sourced (they may export variables), executables are run. A hook that fails is named
# and the start continues: a broken hook must not keep anybody from looking inside.
mirror_run_hooks() {
  local hook
  for hook in "$1"/*; do
    if [ ! -f "$hook" ]; then
      continue # also the unexpanded pattern of an empty folder
    elif [[ "$hook" == *.sh ]]; then
      # shellcheck disable=SC1090
      source "$hook" || mirror_error "$(mirror_say "hook $hook failed (exit $?); the start goes on without it" \
        "钩子 $hook 失败（退出码 $?）；启动继续，不再管它")"
    elif [ -x "$hook" ]; then
      "$hook" || mirror_error "$(mirror_say "hook $hook failed (exit $?); the start goes on without it" \
        "钩子 $hook 失败（退出码 $?）；启动继续，不再管它")"
    else
      mirror_warn "$(mirror_say "hook $hook is neither a .sh file nor executable: passed over (chmod +x it?)" \
        "钩子 $hook 既不是 .sh 文件也不可执行：已跳过（是否需要 chmod +x？）")"
    fi
  done
}

# usage: mirror_script NAME ; prints the path of the workspace script of that name (sft, sft.sh, ./sft.sh, /root/sft.sh)
mirror_script() {
  local name="${1#./}"
  name="${name#"$MIRROR_WORKSPACE"/}"
  name="$MIRROR_WORKSPACE/${name%.sh}.sh"
  [ "$(dirname -- "$name")" = "$MIRROR_WORKSPACE" ] && [ -f "$name" ] && [ -x "$name" ] && echo "$name"
}

# usage: mirror_summary FILE ; prints what a script says of itself: the first sentence of its first comment, or its line `# zh: `
mirror_summary() {
  local text=''
  if [ "$(mirror_say en zh)" = zh ]; then
    text="$(sed -n -e '1,6s/^# zh: //p' -- "$1" 2>/dev/null | tr -d '\0' | head -n 1)"
  fi
  if [ -z "$text" ]; then
    text="$(sed -n -e '1,/^# /{/^#!/d;s/^# //p;}' -- "$1" 2>/dev/null | head -n 1)"
    text="${text%%. *}"
    if [ "${#text}" -gt 96 ]; then text="${text:0:93}..."; fi
  fi
  echo "$text"
}

# usage: mirror_commands ; lists what may stand after the image's name
mirror_commands() {
  local file name
  mirror_say "usage: docker run --rm -it --gpus all IMAGE [COMMAND [ARGUMENT...]]" \
    "用法：docker run --rm -it --gpus all IMAGE [COMMAND [ARGUMENT...]]"
  echo
  mirror_say "scripts of $MIRROR_WORKSPACE (they refuse to start when a start-up check failed):" \
    "$MIRROR_WORKSPACE 里的脚本（启动检查没有通过时拒绝启动）："
  for file in "$MIRROR_WORKSPACE"/*.sh; do
    [ -x "$file" ] || continue
    name="$(basename -- "$file" .sh)"
    printf '  %-16s %s\n' "$name" "$(mirror_summary "$file")"
  done
  echo
  mirror_say "tools:" "工具："
  printf '  %-16s %s\n' healthcheck "$(mirror_say \
    "startup | probe | report: is this container fit to fine-tune?" \
    "startup | probe | report：这个容器是否具备微调条件？")"
  for file in "$MIRROR_ENTRYPOINT_DIR"/bin/*; do
    name="$(basename -- "$file")"
    if [ -f "$file" ] && [ "$name" != healthcheck ] && [ ! -e "$MIRROR_WORKSPACE/$name.sh" ]; then
      printf '  %-16s %s\n' "$name" "$(mirror_summary "$file")"
    fi
  done
  echo
  mirror_say "Anything else that is on PATH is run as it is (bash, python, nvidia-smi). Without a command: a shell." \
    "PATH 上的其他命令照原样运行（bash、python、nvidia-smi）。不给命令则打开 shell。"
}

# usage: mirror_asks_for_help [ARGUMENT...] ; true where the arguments hold --help or -h
mirror_asks_for_help() {
  local word
  for word in "$@"; do
    case "$word" in
      -h | --help) return 0 ;;
      --) return 1 ;;
    esac
  done
  return 1
}

# usage: mirror_level FILE [ARGUMENT...] ; prints the level of check that a command asks for
# A script that needs no GPU says so in a line `# health: fast` or `# health: off`, and is not kept waiting for the forward
# pass; `# health: none` is for what looks at no model at all: nothing is checked or said, and so it is with --help. It can
# only lower what HEALTH_LEVEL asks for.
mirror_level() {
  local asked="${HEALTH_LEVEL:-full}" own='' file="$1"
  shift
  if [ -f "$file" ]; then
    own="$(sed -n -e '1,12s/^# health: \(none\|off\|fast\|full\)$/\1/p' -- "$file" 2>/dev/null | tr -d '\0' | head -n 1)" || own=''
  fi
  if mirror_asks_for_help "$@"; then own=none; fi
  case "$asked/$own" in
    */none) echo none ;;
    */off | off/*) echo off ;;
    full/fast | fast/*) echo fast ;;
    *) echo "$asked" ;;
  esac
}

# usage: mirror_read_ahead COMMAND ; starts to read the weights and torch's libraries into memory, where a job will want them
# In the background, and not as a child of the job, which would have to wait for it. MIRROR_READ_AHEAD=0 disables it.
mirror_read_ahead() {
  case "$(basename -- "${1:-shell}" .sh)" in
    plan | check-data | runs | help | -h | --help | tensorboard) return 0 ;; # these load no model
  esac
  if mirror_asks_for_help "$@"; then return 0; fi
  [ "${MIRROR_READ_AHEAD:-1}" = 0 ] || (
    "${MIRROR_PYTHON:-/opt/venv/bin/python}" -I -S "$MIRROR_ENTRYPOINT_DIR/read_ahead.py" \
      "${MODEL_DIR:-/root/Qwen2.5-7B-Instruct}" </dev/null >/dev/null 2>&1 &
  )
}

# usage: mirror_default_command ; sets COMMAND for a container that was given none
# On a terminal, a shell. `echo sft | docker run -i IMAGE` pipes commands into one. With neither (docker run -d, compose
# up), stdin is /dev/null and a shell would end at once: wait instead, for `docker exec` into a checked container.
mirror_default_command() {
  if [ -t 0 ] || [ "$(readlink /proc/self/fd/0)" != /dev/null ]; then
    COMMAND=(bash)
  else
    mirror_note "$(mirror_say \
      "no command and no terminal: staying up. docker exec -it ${HOSTNAME:-CONTAINER} bash opens a shell; docker stop ends it" \
      "没有命令也没有终端：保持运行。docker exec -it ${HOSTNAME:-CONTAINER} bash 打开 shell；docker stop 结束")"
    COMMAND=(sleep infinity)
  fi
}

# usage: main [COMMAND [ARGUMENT...]]
main() {
  local script='' level health=0
  COMMAND=("$@")

  mirror_read_ahead "$@"
  mirror_run_hooks "$MIRROR_ENTRYPOINT_DIR/start.d"

  if [ "${#COMMAND[@]}" -eq 0 ]; then
    mirror_default_command
  fi
  case "${COMMAND[0]}" in
    healthcheck) exec "${COMMAND[@]}" ;; # `docker run IMAGE healthcheck startup` is that check and no other
    help | -h | --help)
      mirror_commands
      return 0
      ;;
  esac

  if script="$(mirror_script "${COMMAND[0]}")"; then
    COMMAND[0]="$script"
  elif ! type -P -- "${COMMAND[0]}" >/dev/null; then
    # 127 is a shell's exit code. Comes before the start-up checks, so that a typing error does not cost their seconds.
    mirror_error "$(mirror_say "no command ${COMMAND[0]@Q} in this image; what there is:" \
      "镜像里没有命令 ${COMMAND[0]@Q}；可用的有：")"
    mirror_commands >&2
    return 127
  fi

  level="$(mirror_level "${script:-$(type -P -- "${COMMAND[0]}")}" "${COMMAND[@]:1}")"
  # One line unless something is wrong; HEALTH_VERBOSE=1 shows every check.
  [ "$level" = none ] || healthcheck startup --brief --level "$level" >&2 || health=$?
  if [ "$health" -ne 0 ] && [ -n "$script" ]; then
    mirror_error "$(mirror_say \
      "$(basename -- "$script") was not started, because a start-up check failed (above, with its remedy). HEALTH_LEVEL=off starts it all the same" \
      "$(basename -- "$script") 没有启动，因为有启动检查没有通过（见上面的解决办法）。HEALTH_LEVEL=off 可强行启动")"
    return "$health"
  elif [ "$health" -ne 0 ]; then
    mirror_warn "$(mirror_say \
      "a start-up check failed (above, with its remedy); ${COMMAND[0]} starts all the same, so that you can look" \
      "有启动检查没有通过（见上面的解决办法）；${COMMAND[0]} 照常启动，方便您查看")"
  fi

  # exec, so that the command is tini's own child and receives its signals.
  exec "${COMMAND[@]}"
}

if ! _is_sourced; then
  main "$@"
fi
