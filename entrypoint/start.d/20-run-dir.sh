# Finds a folder for health.json and the GPU lock that this user may write to; sourced by entrypoint.sh.
# shellcheck shell=bash

# With --read-only, the image's /run/mirror is not writable. common/state.py tries the same two folders in the same
# order, for `docker exec` and the probes, which do not inherit what is exported here.
if ! { mkdir -p "${MIRROR_RUN_DIR:=/run/mirror}" 2>/dev/null && [ -w "$MIRROR_RUN_DIR" ]; }; then
  if mkdir -p /tmp/mirror 2>/dev/null && { chmod 1777 /tmp/mirror 2>/dev/null || true; } && [ -w /tmp/mirror ]; then
    MIRROR_RUN_DIR=/tmp/mirror
  else
    mirror_warn "$(mirror_say \
      "neither $MIRROR_RUN_DIR nor /tmp/mirror can be written, so the probe will never see a result; add --tmpfs /run/mirror:mode=1777 or --tmpfs /tmp to docker run" \
      "$MIRROR_RUN_DIR 和 /tmp/mirror 都不可写，探针将永远看不到结果；请给 docker run 加上 --tmpfs /run/mirror:mode=1777 或 --tmpfs /tmp")"
  fi
fi
export MIRROR_RUN_DIR
