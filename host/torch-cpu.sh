#!/usr/bin/env bash
# A CPU build of torch for the test image, if this machine's pip has one on disk; called by the Makefile.
#
# usage: host/torch-cpu.sh DIR BASE_IMAGE   put the wheel for the Python of BASE_IMAGE into DIR and print its requirement
#
# Prints nothing if pip has none (PIP_FIND_LINKS or pip.conf name folders of wheels): the image is then built from the
# full lock, whose torch also runs on the CPU and is 4 GB larger. No index is queried: it would return the CUDA build.
set -Eeuo pipefail

dir=${1:?usage: host/torch-cpu.sh DIR BASE_IMAGE} base=${2:?usage: host/torch-cpu.sh DIR BASE_IMAGE}
# the base has no Python yet; its suite says which one apt will bring
case $(docker run --rm --entrypoint sh "$base" -c '. /etc/os-release && echo "$VERSION_CODENAME"') in
  jammy) python=3.10 ;;
  bookworm) python=3.11 ;;
  noble) python=3.12 ;;
  trixie) python=3.13 ;;
  *) exit 0 ;;
esac
spec=torch==${TORCH_CPU_VERSION:-2.13.0}
mkdir -p "$dir"
shopt -s nullglob
found=("$dir/torch-${spec#torch==}"*"cp${python/./}"*.whl)
if ((${#found[@]} == 0)); then
  command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1 || exit 0
  python3 -m pip download -q --disable-pip-version-check --no-index --no-deps --only-binary=:all: \
    --python-version "$python" --implementation cp --platform manylinux_2_28_x86_64 -d "$dir" "$spec" 2>/dev/null || exit 0
fi
echo "$spec"
