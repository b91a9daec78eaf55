#!/usr/bin/env bash
# The last step of every RUN whose layer is shipped, so that two builds give the same layer; called by the Dockerfile.
#
# usage: normalize-layer.sh [FOLDER…]   give one date to all that was written since the base; compile the Python under FOLDERs
#
# The date is set before the bytecode is made, since a .pyc holds its source's, and again after it. It is later than the
# base's files, which stay where they are, and earlier than any build. A .pyc is checked against its source as ever, so
# a file that is edited, or mounted over one of the image, is compiled anew.
set -Eeuo pipefail

date=@1793491200 # 2026-11-01; move it when the base has files that are newer, or they are copied into the first layer

# usage: set_dates -- touch what is newer, but for the builder's mounts
set_dates() {
  find / -xdev -newermt "$date" -print0 |
    { grep -zvxFf <(cut -d ' ' -f 2 /proc/self/mounts) || (($? == 1)); } |
    xargs -0r touch -hd "$date"
}

# usage: compile FOLDER… -- what does not compile (templates, Python 2) is passed over. Each process has the same files at
# every build, and sets have one order: the bytes of a .pyc depend on what the process compiled before it.
compile() {
  find "$@" -name '*.py' -print0 | LC_ALL=C sort -z |
    PYTHONHASHSEED=0 xargs -0r -n 250 -P "$(nproc)" python3 -m compileall -qq || (($? == 123))
}

# uv's locks have random names; its note on a wheel from a folder has the time at which that was written
rm -f /tmp/uv-*.lock
find / -xdev -path '*.dist-info/uv_cache.json' -delete -execdir sed -i '\#/uv_cache\.json,#d' RECORD \;

set_dates
if (($#)); then
  compile "$@"
  set_dates
fi
