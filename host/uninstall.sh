#!/usr/bin/env bash
# Removes what `make` brought onto this machine: images, caches, the engine that it started; `make uninstall` calls it.
#
# usage: host/uninstall.sh IMAGE OUTPUT [--yes]
#
# It lists everything first and asks, unless --yes is given. OUTPUT, with the runs and adapters, is never touched, and nor
# is a Docker engine that was there before.
set -Eeuo pipefail

image=${1:?usage: host/uninstall.sh IMAGE OUTPUT [--yes]}
output=$(readlink -m -- "${2:?usage: host/uninstall.sh IMAGE OUTPUT [--yes]}") # by its real name, whatever links lead there
yes=${3:-}
here=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd -P)
engine=${MIRROR_ENGINE_HOME:-/var/lib/mirror-engine}
if [[ $output/ == "$(readlink -m -- "$engine")"/* ]]; then
  echo "error: OUTPUT ($output) lies in $engine, which would be removed; move your runs first" >&2
  exit 2
fi
cd "$here"
eval "$("$here/host/engine.sh" env)"

# usage: size_of PATH... -- their size for people
size_of() { du -shc -- "$@" 2>/dev/null | tail -n 1 | cut -f 1; }

images=()
if docker info >/dev/null 2>&1; then
  mapfile -t images < <(docker image ls --format '{{.Repository}}:{{.Tag}}' "$image" | grep -v ':<none>$')
fi
caches=()
for folder in .cache .venv build; do
  # a link, or OUTPUT itself by another name, is not ours to delete
  if [[ -d $folder && ! -L $folder && $output/ != "$here/$folder/"* ]]; then caches+=("$here/$folder"); fi
done

if [[ ${#images[@]} == 0 && ${#caches[@]} == 0 && ! -d $engine ]]; then
  echo "nothing to remove: no image $image, no caches in $here, no engine in $engine"
  exit 0
fi
echo "This removes:"
for name in "${images[@]}"; do
  echo "  image   $name  $(docker image ls --format '{{.Size}}' "$name")"
done
for folder in "${caches[@]}"; do echo "  cache   $folder  $(size_of "$folder")"; done
if [[ -d $engine ]]; then
  echo "  engine  $engine  $(size_of "$engine"), with every image and container in it"
fi
echo "It keeps:"
if [[ -d $output ]]; then echo "  your runs and adapters  $output  $(size_of "$output")"; fi
echo "  this folder             $here"

if [[ $yes != --yes ]]; then
  if [[ ! -t 0 ]]; then
    echo "error: nobody can be asked here (no terminal), so nothing was removed; make uninstall YES=1 does it" >&2
    exit 2
  fi
  read -r -p "Remove it? [y/N] " answer
  if [[ ! $answer =~ ^([yY]|yes|YES|是)$ ]]; then
    echo "nothing was removed"
    exit 0
  fi
fi

failed=0
if [[ ${#images[@]} -gt 0 ]]; then
  docker image rm "${images[@]}" >/dev/null || failed=1
fi
if [[ -d $engine ]]; then "$here/host/engine.sh" remove || failed=1; fi
for folder in "${caches[@]}"; do rm -rf -- "$folder" || failed=1; done
if [[ $failed == 1 ]]; then
  echo "error: not everything could be removed (above); containers that still use the image: docker ps -a" >&2
  exit 1
fi
echo "removed; your runs are where they were: $output"
