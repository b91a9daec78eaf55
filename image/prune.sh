#!/usr/bin/env bash
# Deletes from /opt/venv the files listed in requirements/unused.txt, in the RUN that installs it; for the Dockerfile.
#
# usage: prune.sh UNUSED.txt   prints the MB freed by each pattern; one that matches nothing prints nothing
set -Eeuo pipefail

list=${1:?usage: prune.sh UNUSED.txt}
cd /opt/venv/lib/python3*/site-packages

total=0
while read -r pattern _; do
  [[ -n $pattern && $pattern != '#'* ]] || continue
  [[ -d ${pattern%%/*} ]] || continue
  bytes=$(
    find "${pattern%%/*}" \( -type f -o -type l \) -path "$pattern" \
      ! -ipath '*licen[cs]e*' ! -iname 'copying*' ! -iname 'notice*' -printf '%s\n' -delete | awk '{s += $1} END {print s + 0}'
  )
  total=$((total + bytes))
  ((bytes == 0)) || printf 'pruned %6.1f MB  %s\n' "$((bytes / 100000))e-1" "$pattern"
  find "${pattern%%/*}" -depth -type d -empty -delete
done <"$list"
printf 'pruned %6.1f MB in all\n' "$((total / 100000))e-1"
