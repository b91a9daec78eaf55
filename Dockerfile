# The mirror: a base, the Python packages, the weights, then the code; built with `make build`.
#
# Build arguments:
#   BASE_IMAGE     any Debian or Ubuntu with Python 3.10 to 3.13; the CUDA libraries come with the Python wheels
#   MODEL_SOURCE   modelscope | huggingface | local (--build-context weights=DIR) | standin
#   TORCH_SPEC     a torch to install from --build-context wheels=DIR in place of the locked one (CPU tests)
#   PIP_INDEX_URL  a package index nearer to you; APT_MIRROR likewise for the base's packages (scheme and host)
ARG BASE_IMAGE=nvidia/cuda:12.8.1-base-ubuntu24.04
ARG MODEL_SOURCE=modelscope

# Empty unless replaced with --build-context wheels=DIR, weights=DIR or (for the stage `test`) locks=requirements.
FROM scratch AS wheels
FROM scratch AS weights
FROM scratch AS locks

# ---- os: what the distribution provides -----------------------------------------------------------------------------
FROM ${BASE_IMAGE} AS os
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ARG APT_MIRROR=
ARG DEBIAN_FRONTEND=noninteractive
# NVIDIA_REQUIRE_CUDA of the CUDA bases is cleared: it makes the NVIDIA runtime refuse GeForce drivers before 570 with a
# cryptic line, where the wheels run from 525 on, and the start-up check `driver` says what is there and what is needed.
ENV LANG=C.UTF-8 LC_ALL=C.UTF-8 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility NVIDIA_REQUIRE_CUDA=
# - ca-certificates: TLS to hubs and package indexes
# - gcc, libc6-dev, python3-dev: Triton compiles its kernel launchers at run time, against Python.h
# - procps: ps and top, for people and for tests
# - python3, python3-venv: the interpreter under /opt/venv
# - tini: PID 1 that reaps zombies and passes signals on
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    rm -f /etc/apt/apt.conf.d/docker-clean && \
    if [ -n "${APT_MIRROR}" ]; then \
      find /etc/apt \( -name '*.list' -o -name '*.sources' \) -exec sed -i -E "s#https?://[^/ ]+#${APT_MIRROR}#g" {} +; \
    fi && \
    apt-get update -qq && \
    apt-get install -y -qq --no-install-recommends \
      ca-certificates \
      gcc \
      libc6-dev \
      procps \
      python3 \
      python3-dev \
      python3-venv \
      tini >/dev/null && \
    rm -rf /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/cache/ldconfig /var/cache/debconf/*-old

# ---- uv: the installer, used through a bind mount and left behind ---------------------------------------------------
FROM os AS uv
ARG PIP_INDEX_URL=
COPY requirements/build.lock /tmp/build.lock
RUN python3 -m venv /opt/uv && \
    if [ -z "${PIP_INDEX_URL}" ]; then unset PIP_INDEX_URL; fi && \
    /opt/uv/bin/pip install -q --no-cache-dir --disable-pip-version-check --require-hashes -r /tmp/build.lock

# ---- deps: /opt/venv, torch in one layer, the rest in another -------------------------------------------------------
FROM os AS deps
ARG PIP_INDEX_URL=
ARG TORCH_SPEC=
ENV VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    MIRROR_TORCH_SPEC=${TORCH_SPEC}
COPY requirements/image.lock requirements/split.py /opt/mirror/requirements/
# uv compiles the bytecode: an uncompiled ms-swift costs 20 s at every start.
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,from=uv,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,from=wheels,target=/wheels \
    python3 -m venv --without-pip /opt/venv && \
    export UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy ${PIP_INDEX_URL:+UV_DEFAULT_INDEX="${PIP_INDEX_URL}"} && \
    if [ -n "${TORCH_SPEC}" ]; then \
      /opt/uv/bin/uv pip install -q --no-deps --no-index --find-links /wheels --compile-bytecode "${TORCH_SPEC}"; \
    else \
      python3 /opt/mirror/requirements/split.py /opt/mirror/requirements/image.lock torch >/tmp/torch.lock && \
      /opt/uv/bin/uv pip install -q --no-deps --require-hashes --compile-bytecode -r /tmp/torch.lock; \
    fi && \
    rm -f /tmp/torch.lock
# bitsandbytes, for a 4-bit base, brings a library for every CUDA, ROCm and XPU: torch's (12.8) and the CPU's stay. It lies
# beside the other packages (swift_launcher finds it): on their path, peft imports it in every run, which takes seconds.
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,from=uv,source=/opt/uv,target=/opt/uv \
    export UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy ${PIP_INDEX_URL:+UV_DEFAULT_INDEX="${PIP_INDEX_URL}"} && \
    python3 /opt/mirror/requirements/split.py /opt/mirror/requirements/image.lock rest >/tmp/rest.lock && \
    /opt/uv/bin/uv pip install -q --no-deps --require-hashes --compile-bytecode -r /tmp/rest.lock && \
    rm -f /tmp/rest.lock && \
    mkdir /opt/bitsandbytes && mv /opt/venv/lib/python3*/site-packages/bitsandbytes /opt/bitsandbytes/ && \
    find /opt/bitsandbytes -name 'libbitsandbytes_*.so' ! -name '*_cuda128.so' ! -name '*_cpu.so' -delete && \
    echo /opt/mirror >"$(echo /opt/venv/lib/python3*/site-packages)/mirror.pth"

# ---- test: the same packages with pytest and a browser; never shipped -----------------------------------------------
FROM deps AS test
ARG PIP_INDEX_URL=
ARG DEBIAN_FRONTEND=noninteractive
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-wqy-zenhei git make >/dev/null
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,from=uv,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,from=locks,target=/locks \
    export UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy ${PIP_INDEX_URL:+UV_DEFAULT_INDEX="${PIP_INDEX_URL}"} && \
    /opt/uv/bin/uv pip install -q --no-deps --require-hashes -r /locks/standin.lock && \
    /opt/uv/bin/uv pip install -q --require-hashes -r /locks/test.lock

# ---- weights: one stage a source; each ends in /model, checked against SHA256SUMS -----------------------------------
FROM os AS fetch
ARG PIP_INDEX_URL=
ENV VIRTUAL_ENV=/opt/fetch PATH=/opt/fetch/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
COPY weights/clients.lock /tmp/clients.lock
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,from=uv,source=/opt/uv,target=/opt/uv \
    python3 -m venv --without-pip /opt/fetch && \
    export UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy ${PIP_INDEX_URL:+UV_DEFAULT_INDEX="${PIP_INDEX_URL}"} && \
    /opt/uv/bin/uv pip install -q --no-deps --require-hashes -r /tmp/clients.lock
COPY weights/ /src/weights/

FROM fetch AS weights-modelscope
ARG MODELSCOPE_DOMAIN=
RUN --mount=type=cache,target=/cache,sharing=locked \
    --mount=type=secret,id=modelscope_token \
    python3 /src/weights/fetch.py modelscope --to /model --cache /cache --copies 1

FROM fetch AS weights-huggingface
ARG HF_ENDPOINT=
RUN --mount=type=cache,target=/cache,sharing=locked \
    --mount=type=secret,id=hf_token \
    python3 /src/weights/fetch.py huggingface --to /model --cache /cache --copies 1

FROM fetch AS weights-local
RUN --mount=type=bind,from=weights,target=/local \
    python3 /src/weights/fetch.py local --from /local --to /model --copies 1

FROM deps AS weights-standin
COPY requirements/standin.lock /tmp/standin.lock
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,from=uv,source=/opt/uv,target=/opt/uv \
    UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy /opt/uv/bin/uv pip install -q --no-deps --require-hashes -r /tmp/standin.lock
COPY standin/ /src/standin/
COPY weights/SHA256SUMS /src/weights/
COPY workspace/self_cognition.json /src/workspace/self_cognition.json
COPY workspace/questions/ /src/workspace/questions/
WORKDIR /src
RUN --network=none python3 -m standin.build --out /model

# hadolint ignore=DL3006
FROM weights-${MODEL_SOURCE} AS model

# ---- image: what is shipped ------------------------------------------------------------------------------------------
FROM deps AS image
# The launchers come before the venv's own `swift` on PATH; login shells reset PATH and find them in /usr/local/bin.
# hadolint ignore=DL3064
ENV PATH=/opt/mirror/entrypoint/bin:/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    MODEL_DIR=/root/Qwen2.5-7B-Instruct OUTPUT_DIR=/root/output \
    HEALTH_LEVEL=full VRAM_CEILING_GIB=22 MIRROR_DEVICE=auto MIRROR_RUN_DIR=/run/mirror \
    HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1
# One layer a shard, so that a push or a pull moves and resumes them one by one. Weights come before code, so that a code
# change pushes megabytes.
COPY --link --from=model /model/model-00001-of-00004.safetensors /root/Qwen2.5-7B-Instruct/
COPY --link --from=model /model/model-00002-of-00004.safetensors /root/Qwen2.5-7B-Instruct/
COPY --link --from=model /model/model-00003-of-00004.safetensors /root/Qwen2.5-7B-Instruct/
COPY --link --from=model /model/model-00004-of-00004.safetensors /root/Qwen2.5-7B-Instruct/
COPY --link --from=model /model/*.json /model/merges.txt /model/LICENSE /model/SHA256SUMS /root/Qwen2.5-7B-Instruct/
COPY LICENSE /opt/mirror/
COPY weights/SHA256SUMS /opt/mirror/weights/
COPY entrypoint/ /opt/mirror/entrypoint/
COPY qwen2/ /opt/mirror/qwen2/
COPY healthchecks/ /opt/mirror/healthchecks/
COPY finetune/ /opt/mirror/finetune/
COPY workspace/ /root/
# /root is readable by everyone, so that `--user 1000` works; the run directory is for everyone, like /tmp.
RUN python3 -m compileall -q /opt/mirror && \
    ln -s /opt/mirror/entrypoint/bin/* /root/*.sh /usr/local/bin/ && \
    chmod 0755 /root && \
    mkdir -p /root/output && chmod 1777 /root/output && \
    install -d -m 1777 /run/mirror
WORKDIR /root
ARG VERSION=dev
ARG REVISION=unknown
ENV MIRROR_REVISION=${REVISION}
ARG MODEL_SOURCE
ARG MODEL_REVISION=a09a35458c702b33eeacc393d103063234e8bc28
LABEL org.opencontainers.image.title="qwen2.5-7b-mirror" \
      org.opencontainers.image.description="From a bare GPU to a fine-tuned Qwen2.5-7B-Instruct that is proved to work" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      mirror.model.source="${MODEL_SOURCE}" \
      mirror.model.revision="${MODEL_REVISION}"
ENTRYPOINT ["tini", "-g", "--", "/opt/mirror/entrypoint/entrypoint.sh"]
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --start-interval=1s --retries=2 CMD ["healthcheck", "probe"]
