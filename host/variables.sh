#!/usr/bin/env bash
# Refuses a variable on make's command line that nothing here reads, such as ADAPTR=newest: make itself says nothing
# about it. Called by the Makefile before any verb.
#
# usage: host/variables.sh NAME...
set -Eeuo pipefail

here=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd -P)
# shellcheck source=host/say.sh
source "$here/host/say.sh" # die

# What the Makefile sets with a default, uses as $(NAME), or hands to a container with -e NAME.
known=$(grep -oE '^[A-Z][A-Z_]* [?:]?=|\$\([A-Z][A-Z_]*[),]|-e [A-Z][A-Z_]*' "$here/Makefile" | grep -oE '[A-Z][A-Z_]*' | sort -u)

# usage: is_known NAME -- whether anything reads it: the Makefile, or a program that it starts
is_known() {
  case "$1" in
    MIRROR_* | NCCL_* | GLOO_* | DOCKER_* | BUILDKIT_* | BUILDX_* | COMPOSE_* | PIP_* | PYTHON* | *_PROXY | *_proxy) return 0 ;;
    LC_* | LANG | SHELL | HOME | PATH | TERM | COLUMNS | TMPDIR) return 0 ;;
    *) grep -qxF -- "$1" <<<"$known" ;;
  esac
}

# usage: nearest NAME -- the variable for users that is spelled most like it, or nothing
nearest() {
  awk -v name="${1^^}" '
    function distance(a, b, i, j, best, row, above, cut) {
      for (j = 0; j <= length(b); j++) above[j] = j
      for (i = 1; i <= length(a); i++) {
        row[0] = i
        for (j = 1; j <= length(b); j++) {
          cut = substr(a, i, 1) != substr(b, j, 1)
          best = above[j - 1] + cut
          if (above[j] + 1 < best) best = above[j] + 1
          if (row[j - 1] + 1 < best) best = row[j - 1] + 1
          row[j] = best
        }
        for (j = 0; j <= length(b); j++) above[j] = row[j]
      }
      return above[length(b)]
    }
    BEGIN { least = int((length(name) + 1) / 3) + 1 }
    { far = distance(name, $0); if (far < least) { least = far; found = $0 } }
    END { print found }' <<<"$known"
}

for name in "$@"; do
  is_known "$name" && continue
  guess=$(nearest "$name")
  die 2 "$name=: make has no variable of this name${guess:+; did you mean $guess=?} (make lists them; options of a script go into ARGS='--option value')" \
    "$name=：make 没有这个变量${guess:+；是不是 $guess=？}（执行 make 可列出变量；脚本的选项写在 ARGS='--option value' 里）"
done
