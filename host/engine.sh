#!/usr/bin/env bash
# A Docker engine for a machine that has none; called by the Makefile before anything that needs Docker.
#
# usage: host/engine.sh start   use the engine that answers, or start one (Debian or Ubuntu, as root)
#        host/engine.sh env     print the exports that point a shell at the engine it started, nothing otherwise
#        host/engine.sh stop    stop the engine it started; images are kept
#        host/engine.sh remove  stop it and delete it with its images
#
# Nothing on the host is replaced: the packages are unpacked, not installed, under MIRROR_ENGINE_HOME, where the daemon
# has its own socket, data and pid file. Debian 12's docker.io (20.10) is too old: it lacks COPY --link, named build
# contexts and --start-interval, so on Debian 12 the packages of Debian 13 are unpacked.
set -Eeuo pipefail

home=${MIRROR_ENGINE_HOME:-/var/lib/mirror-engine}
root=$home/root

# shellcheck source=host/say.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/say.sh" # say, die

# usage: alive -- is the daemon that this script started running?
alive() { [[ -s $home/pid ]] && kill -0 "$(cat "$home/pid")" 2>/dev/null && grep -qs dockerd "/proc/$(cat "$home/pid")/cmdline"; }

# usage: answers -- does an engine respond to the plain `docker` of this shell, with buildx and compose?
answers() {
  local version
  command -v docker >/dev/null && docker info >/dev/null 2>&1 || return 1
  version=$(docker version --format '{{.Server.Version}}' 2>/dev/null) || version=''
  [[ ! $version =~ ^[0-9]+\. ]] || ((${version%%.*} >= 25)) ||
    say "Docker $version is too old to build the image: HEALTHCHECK --start-interval needs Docker 25 or later. It runs an image that was built elsewhere; to build one here, update Docker Engine." "Docker $version 太旧，无法构建镜像：HEALTHCHECK --start-interval 需要 Docker 25 或更高版本。别处构建的镜像可以运行；要在本机构建，请升级 Docker Engine。"
  docker buildx version >/dev/null 2>&1 ||
    die 1 "this Docker has no buildx; the Dockerfile needs BuildKit. Install the docker-buildx-plugin (or docker-buildx) package." "这个 Docker 没有 buildx，而 Dockerfile 需要 BuildKit。请安装软件包 docker-buildx-plugin（或 docker-buildx）。"
  docker compose version >/dev/null 2>&1 ||
    say "this Docker has no compose v2; 'docker compose' will not work until docker-compose-plugin is installed" "这个 Docker 没有 compose v2；安装 docker-compose-plugin 之前无法使用 docker compose"
}

# usage: check_host -- explain, in one line, what to install if this script cannot help
check_host() {
  local ID='' VERSION_CODENAME=''
  # shellcheck disable=SC1091
  [[ -r /etc/os-release ]] && . /etc/os-release
  # not through a pipe: docker exits with 1 there, and pipefail would hide grep's result
  if command -v docker >/dev/null && [[ $(docker info 2>&1) == *'permission denied'* ]]; then
    die 1 "Docker runs, but this user may not talk to it. Run 'sudo usermod -aG docker $(id -un)', log in again, and retry." "Docker 在运行，但当前用户无权访问。请执行 'sudo usermod -aG docker $(id -un)'，重新登录后再试。"
  fi
  case $ID in
    debian)
      packages=(docker.io docker-cli docker-buildx docker-compose containerd)
      suite=trixie
      ;;
    ubuntu)
      packages=(docker.io docker-buildx docker-compose-v2 containerd)
      suite=$VERSION_CODENAME
      ;;
    *) die 1 "no Docker engine answers, and this script can start one on Debian and Ubuntu only. Install Docker Engine 25 or later with buildx and compose v2, start it, and retry." "没有 Docker 引擎响应，而本脚本只能在 Debian 和 Ubuntu 上启动引擎。请安装 Docker Engine 25 或更高版本及 buildx、compose v2，启动后再试。" ;;
  esac
  [[ $(id -u) == 0 ]] ||
    die 1 "no Docker engine answers. Start it ('sudo systemctl start docker'), or run this once as root: sudo host/engine.sh start" "没有 Docker 引擎响应。请启动它（'sudo systemctl start docker'），或以 root 运行一次：sudo host/engine.sh start"
}

# usage: sources_for SUITE -- the host's own apt sources, changed to SUITE, in deb822 form
sources_for() {
  local suite=$1 file
  for file in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/ubuntu.sources; do
    [[ -r $file ]] || continue
    if [[ $file == */ubuntu.sources ]]; then
      cat "$file"
    else
      awk 'BEGIN{RS="";ORS="\n\n"} !/-security/' "$file" | sed -E "s/^Suites:.*/Suites: $suite/"
    fi
    return
  done
  # an older one-line sources.list: take its first mirror
  awk -v suite="$suite" '$1=="deb" {for (i=2;i<=NF;i++) if ($i ~ /^https?:/) {print "deb " $i " " suite " main universe"; exit}}' \
    /etc/apt/sources.list | sed -E '/debian/s/ universe//'
}

# usage: unpack -- fetch and unpack the packages into $root, once
unpack() {
  local deb options
  local -a needed=(iptables iproute2 runc tini)
  if [[ -x $root/usr/sbin/dockerd ]] && command -v runc iptables tini-static >/dev/null; then return; fi
  say "no Docker engine here; unpacking one under $home (about 100 MB, nothing of the host is replaced)" \
    "本机没有 Docker 引擎，正在把它解压到 $home（约 100 MB，不替换系统里的任何内容）"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${needed[@]}" ca-certificates >/dev/null 2>&1 ||
    die 1 "apt-get could not install ${needed[*]}; run 'apt-get install ${needed[*]}' to see why" "apt-get 无法安装 ${needed[*]}；请运行 'apt-get install ${needed[*]}' 查看原因"
  mkdir -p "$home"/apt/{lists/partial,archives/partial,parts} "$home"/{debs,cfg/cli-plugins} "$root"
  if [[ -r /etc/apt/sources.list.d/debian.sources || -r /etc/apt/sources.list.d/ubuntu.sources ]]; then
    sources_for "$suite" >"$home/apt/parts/engine.sources"
  else
    sources_for "$suite" >"$home/apt/parts/engine.list"
  fi
  options=(-o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$home/apt/parts"
    -o Dir::State::lists="$home/apt/lists" -o Dir::Cache::archives="$home/apt/archives"
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update -qq
  (cd "$home/debs" && apt-get "${options[@]}" download -qq "${packages[@]}")
  for deb in "$home"/debs/*.deb; do dpkg-deb -x "$deb" "$root"; done
  ln -sf "$root"/usr/libexec/docker/cli-plugins/* "$home/cfg/cli-plugins/" 2>/dev/null ||
    ln -sf "$root"/usr/lib/docker/cli-plugins/* "$home/cfg/cli-plugins/"
  rm -rf "$home/debs" "$home/apt"
}

start() {
  local -a packages=()
  local suite='' held version
  if alive; then return; fi
  if answers; then return; fi
  check_host
  unpack
  # a bridge MTU below 1500 survives tunnels; cdi lets tests declare devices
  printf '{"features":{"cdi":true},"cdi-spec-dirs":["%s/cdi"],"mtu":1400}\n' "$home" >"$home/daemon.json"
  rm -f "$home/pid"
  # After a power cut its pid may belong to another process, which dockerd would take for a running containerd.
  held=$(cat "$home/run/containerd/containerd.pid" 2>/dev/null || echo 0)
  if [[ $(cat "/proc/$held/comm" 2>/dev/null) != containerd ]]; then rm -f "$home/run/containerd/containerd.pid"; fi
  PATH=$root/usr/bin:$root/usr/sbin:$PATH setsid nohup "$root/usr/sbin/dockerd" --config-file "$home/daemon.json" \
    --data-root "$home/data" --exec-root "$home/run" --pidfile "$home/pid" -H "unix://$home/sock" \
    --init-path /usr/bin/tini-static --experimental >"$home/log" 2>&1 </dev/null &
  for _ in $(seq 120); do
    if DOCKER_HOST=unix://$home/sock "$root/usr/bin/docker" info >/dev/null 2>&1; then
      version=$(DOCKER_HOST=unix://$home/sock "$root/usr/bin/docker" version --format '{{.Server.Version}}')
      say "Docker $version runs; point a shell at it with: eval \"\$(host/engine.sh env)\"" \
        "Docker $version 已运行；让当前 shell 使用它：eval \"\$(host/engine.sh env)\""
      return
    fi
    sleep 0.5
  done
  tail -n 5 "$home/log" >&2
  die 1 "the engine did not come up within 60 s; its log is $home/log (in a container it needs --privileged)" "引擎在 60 秒内没有启动；日志在 $home/log（在容器里需要 --privileged）"
}

env_() {
  alive || return 0
  # shellcheck disable=SC2016
  printf 'export DOCKER_HOST=unix://%s/sock DOCKER_CONFIG=%s/cfg PATH=%s/root/usr/bin:$PATH\n' "$home" "$home" "$home"
}

stop() {
  alive || return 0
  local pid
  pid=$(cat "$home/pid")
  kill "$pid"
  for _ in $(seq 120); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.25
  done
  die 1 "the engine (pid $pid) did not stop within 30 s" "引擎（pid $pid）在 30 秒内没有停止"
}

case ${1:-} in
  start | stop) "$1" ;;
  env) env_ ;;
  remove)
    stop
    rm -rf "$home"
    ;;
  *)
    sed -n '4,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
