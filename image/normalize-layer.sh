#!/usr/bin/env bash
# The last step of every RUN whose layer is shipped: makes two builds give the same layer; called by the Dockerfile.
#
# usage: normalize-layer.sh [FOLDER…]   give one date to all files written since the base; compile the Python in FOLDERs
#
# The date is set before the bytecode is compiled, since a .pyc stores its source's date, and again afterwards. It is
# later than the base's files, which stay unchanged, and earlier than any build. A .pyc is still checked against its
# source, so a file that is edited, or mounted over one in the image, is recompiled.
set -Eeuo pipefail

date=@1793491200 # 2026-11-01; move it when the base has files that are newer, or they are copied into the first layer

# usage: set_dates -- touch newer files, except the builder's mounts
set_dates() {
  find / -xdev -newermt "$date" -print0 |
    { grep -zvxFf <(cut -d ' ' -f 2 /proc/self/mounts) || (($? == 1)); } |
    xargs -0r touch -hd "$date"
}

# usage: compile FOLDER… -- files that do not compile (templates, Python 2) are skipped. Each process gets the same
# files in every build, and sets have one order: the bytes of a .pyc depend on what the process compiled before it.
compile() {
  find "$@" -name '*.py' -print0 | LC_ALL=C sort -z |
    PYTHONHASHSEED=0 xargs -0r -n 250 -P "$(nproc)" python3 -m compileall -qq || (($? == 123))
}

# uv's locks have random names, and its note on a wheel from a folder contains the time at which it was written
rm -f /tmp/uv-*.lock
find / -xdev -path '*.dist-info/uv_cache.json' -delete -execdir sed -i '\#/uv_cache\.json,#d' RECORD \;

set_dates
if (($#)); then
  compile "$@"
  set_dates
fi
