# Gives a container that runs under a bare uid (--user 1000) a home and a name; sourced by entrypoint.sh.
# shellcheck shell=bash

# Docker sets HOME=/ for a user that is not in /etc/passwd, and with --read-only not even root's home is writable.
# Triton, matplotlib, modelscope and datasets keep their caches there.
if [ -z "${HOME:-}" ] || [ "$HOME" = / ] || [ ! -w "$HOME" ]; then
  for _dir in "/tmp/home-$(id -u)" "$(mktemp -d -u "/tmp/home-$(id -u)-XXXXXX")"; do
    # -O: a folder of that name that another user created in /tmp must not be trusted.
    if (umask 077 && mkdir -p "$_dir") 2>/dev/null && [ -O "$_dir" ] && [ -w "$_dir" ]; then
      export HOME="$_dir"
      break
    fi
  done
  if [ ! -w "$HOME" ]; then
    mirror_warn "$(mirror_say "no writable home: caches cannot be kept; add --tmpfs /tmp to docker run" "没有可写的主目录，无法保存缓存；请给 docker run 加上 --tmpfs /tmp")"
  fi
  unset _dir
fi
# What Triton has to compile (most kernels are in the image) outlives the container in a mounted output folder; nothing is
# written there unless a kernel is compiled. Docker mounts --tmpfs /tmp with noexec, where Triton cannot load what it compiles.
_output="${OUTPUT_DIR:-/root/output}"
if [ -z "${TRITON_CACHE_DIR:-}" ] && [ -w "$_output" ]; then
  while read -r _ _dir _ _options _; do
    if [ "$_dir" = "$_output" ] && [[ ",$_options," != *,noexec,* ]]; then
      export TRITON_CACHE_DIR="$_output/.cache/triton"
    fi
  done </proc/self/mounts
fi
if [ -z "${TRITON_CACHE_DIR:-}" ] && cp /bin/true "$HOME/.exec-$$" 2>/dev/null; then
  if ! "$HOME/.exec-$$" 2>/dev/null; then
    if [ -w "$_output" ]; then
      export TRITON_CACHE_DIR="$_output/.cache/triton"
    else
      mirror_warn "$(mirror_say \
        "$HOME is mounted noexec and $_output cannot be written: Triton cannot keep its kernels, so the GPU will not be used well; give --tmpfs /tmp:exec" \
        "$HOME 以 noexec 挂载，$_output 又不可写：Triton 无法保存核函数，GPU 性能会下降；请加上 --tmpfs /tmp:exec")"
    fi
  fi
  rm -f "$HOME/.exec-$$"
fi
unset _output _dir _options
# getpass.getuser(), which torch calls to name its cache, fails for a user without a name.
if ! id -un >/dev/null 2>&1; then
  export USER="${USER:-mirror}" LOGNAME="${LOGNAME:-mirror}"
fi
