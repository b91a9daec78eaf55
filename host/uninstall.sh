#!/usr/bin/env bash
# Removes what `make` added to this machine: images, caches, the engine that it started; called by `make uninstall`.
#
# usage: host/uninstall.sh IMAGE OUTPUT [--yes]
#
# It lists everything first and asks, unless --yes is given. It never touches OUTPUT, with the runs and adapters, nor a
# Docker engine that was there before.
set -Eeuo pipefail

image=${1:?usage: host/uninstall.sh IMAGE OUTPUT [--yes]}
output=$(readlink -m -- "${2:?usage: host/uninstall.sh IMAGE OUTPUT [--yes]}") # by its real name, whatever links lead there
yes=${3:-}
here=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd -P)
engine=${MIRROR_ENGINE_HOME:-/var/lib/mirror-engine}
# shellcheck source=host/say.sh
source "$here/host/say.sh" # die, mirror_say
if [[ $output/ == "$(readlink -m -- "$engine")"/* ]]; then
  die 2 "OUTPUT ($output) lies in $engine, which would be removed; move your runs first" \
    "OUTPUT（$output）在要删除的 $engine 里；请先移走您的训练结果"
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
  # never delete a link, or OUTPUT itself under another name
  if [[ -d $folder && ! -L $folder && $output/ != "$here/$folder/"* ]]; then caches+=("$here/$folder"); fi
done

if [[ ${#images[@]} == 0 && ${#caches[@]} == 0 && ! -d $engine ]]; then
  mirror_say "nothing to remove: no image $image, no caches in $here, no engine in $engine" \
    "没有可删除的内容：没有镜像 $image，$here 里没有缓存，$engine 里没有引擎"
  exit 0
fi
mirror_say "This removes:" "将删除："
for name in "${images[@]}"; do
  echo "  $(mirror_say image 镜像)   $name  $(docker image ls --format '{{.Size}}' "$name")"
done
for folder in "${caches[@]}"; do echo "  $(mirror_say cache 缓存)   $folder  $(size_of "$folder")"; done
if [[ -d $engine ]]; then
  mirror_say "  engine  $engine  $(size_of "$engine"), with every image and container in it" \
    "  引擎   $engine  $(size_of "$engine")，连同其中的所有镜像和容器"
fi
mirror_say "It keeps:" "将保留："
if [[ -d $output ]]; then echo "  $(mirror_say "your runs and adapters" "训练结果和适配器")  $output  $(size_of "$output")"; fi
echo "  $(mirror_say "this folder            " "本目录          ")  $here"

if [[ $yes != --yes ]]; then
  [[ -t 0 ]] || die 2 "there is no terminal to ask at, so nothing was removed; make uninstall YES=1 does it" \
    "没有终端，无法询问，因此没有删除任何内容；make uninstall YES=1 直接删除"
  read -r -p "$(mirror_say "Remove it? [y/N]" "确认删除？[y/N]") " answer
  if [[ ! $answer =~ ^([yY]|yes|YES|是)$ ]]; then
    mirror_say "nothing was removed" "没有删除任何内容"
    exit 0
  fi
fi

failed=0
if [[ ${#images[@]} -gt 0 ]]; then
  docker image rm "${images[@]}" >/dev/null || failed=1
fi
if [[ -d $engine ]]; then "$here/host/engine.sh" remove || failed=1; fi
for folder in "${caches[@]}"; do rm -rf -- "$folder" || failed=1; done
[[ $failed == 0 ]] || die 1 "not everything could be removed (above); containers that still use the image: docker ps -a" \
  "有些内容没能删除（见上）；仍在使用镜像的容器：docker ps -a"
mirror_say "removed; your runs are where they were: $output" "已删除；训练结果仍在原处：$output"
