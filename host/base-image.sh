#!/usr/bin/env bash
# The base image to build on: the requested one if a registry responds, else a local Debian base; for the Makefile.
#
# usage: host/base-image.sh IMAGE   print the name of the image to give as BASE_IMAGE
#
# Prints IMAGE itself if it is present or can be pulled. Otherwise, on Debian or Ubuntu as root, builds a minimal
# Debian 12 from Debian's packages (130 MB, about 35 s) and prints its name. The CUDA libraries come with the Python
# wheels and the driver from the NVIDIA runtime, so the mirror runs on this base as well.
set -Eeuo pipefail

wanted=${1:?usage: host/base-image.sh IMAGE}
suite=${MIRROR_BASE_SUITE:-bookworm}
fallback=mirror-base:$suite

# shellcheck source=host/say.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/say.sh" # say, die

# usage: make_base TAG SUITE -- a minimal Debian with this host's CA certificates, to work behind a company's proxy
make_base() {
  local tag=$1 suite=$2
  local -a hooks=() certificates
  shopt -s nullglob
  certificates=(/usr/local/share/ca-certificates/*.crt)
  if ((${#certificates[@]})); then
    hooks+=(--customize-hook="copy-in ${certificates[*]} /usr/local/share/ca-certificates")
  fi
  # shellcheck disable=SC2016  # $1 is mmdebstrap's, not ours
  hooks+=(--customize-hook='chroot "$1" update-ca-certificates')
  # shellcheck disable=SC2016
  hooks+=(--customize-hook='printf "[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n" >"$1/etc/pip.conf"')
  # a fixed date makes two runs bit-identical, so the layers above stay cached
  SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0} mmdebstrap --quiet --variant=minbase --include=ca-certificates \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' --dpkgopt='path-exclude=/usr/share/locale/*' \
    "${hooks[@]}" "$suite" - |
    docker import --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
      --change 'CMD ["/bin/bash"]' --change "LABEL base.suite=$suite" - "$tag" >/dev/null
}

if docker image inspect "$wanted" >/dev/null 2>&1; then
  echo "$wanted"
  exit
fi
if docker image inspect "$fallback" >/dev/null 2>&1; then
  say "using the local base $fallback ('docker pull $wanted' first, or BASE_IMAGE=…, to use another)" \
    "使用本机的基础镜像 $fallback（要用别的，请先 'docker pull $wanted'，或设置 BASE_IMAGE=…）"
  echo "$fallback"
  exit
fi
if timeout "${MIRROR_PULL_TIMEOUT:-600}" docker pull "$wanted" >&2; then
  echo "$wanted"
  exit
fi
say "$wanted cannot be pulled; making a Debian 12 base from Debian's packages instead" \
  "无法拉取 $wanted，改用 Debian 的软件包制作 Debian 12 基础镜像"
command -v apt-get >/dev/null ||
  die 1 "$wanted cannot be pulled, and a base can be made on Debian and Ubuntu only. Set BASE_IMAGE to an image that your registry has (any Debian or Ubuntu with Python 3.10 to 3.13)." "无法拉取 $wanted，而基础镜像只能在 Debian 和 Ubuntu 上制作。请把 BASE_IMAGE 设为您的镜像仓库里已有的镜像（带 Python 3.10 到 3.13 的 Debian 或 Ubuntu 均可）。"
[[ $(id -u) == 0 ]] ||
  die 1 "$wanted cannot be pulled, and making a base needs root. Run 'sudo host/base-image.sh $wanted' once, or set BASE_IMAGE." "无法拉取 $wanted，而制作基础镜像需要 root。请运行一次 'sudo host/base-image.sh $wanted'，或设置 BASE_IMAGE。"
if ! command -v mmdebstrap >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap >/dev/null 2>&1 ||
    die 1 "apt-get could not install mmdebstrap; run 'apt-get install mmdebstrap' to see why" "apt-get 无法安装 mmdebstrap；请运行 'apt-get install mmdebstrap' 查看原因"
fi
make_base "$fallback" "$suite" || die 1 "mmdebstrap could not make a Debian $suite base; its message is above" "mmdebstrap 无法制作 Debian $suite 基础镜像；它的报错见上"
echo "$fallback"
