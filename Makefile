# The verbs of the mirror. `make` alone prints them; every variable below can be given on the command line.

SHELL := /bin/bash
.SHELLFLAGS := -Eeuo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# What this machine is: a GPU that the driver can see, or not. It decides the two defaults below.
HAS_GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)

GPUS ?= $(if $(HAS_GPU),all,none)
NAMED_MODEL := $(MODEL)
MODEL_SOURCE ?= $(if $(HAS_GPU)$(NAMED_MODEL),modelscope,standin)
# another model by its name at the hubs: Qwen2.5-{0.5B,1.5B,3B,14B,32B}-Instruct, Qwen2.5-Coder-7B-Instruct, ...
MODEL ?= $(if $(filter smollm2,$(MODEL_SOURCE)),SmolLM2-135M-Instruct,Qwen2.5-7B-Instruct)
# qwen2.5-7b-mirror for Qwen2.5-7B-Instruct and for the test models, qwen2.5-7b-base-mirror for Qwen2.5-7B
TEST_MODEL := $(filter standin smollm2,$(MODEL_SOURCE))
NAMED = $(if $(filter %-Instruct,$(MODEL)),$(MODEL:-Instruct=),$(MODEL)-base)
IMAGE ?= $(if $(TEST_MODEL),qwen2.5-7b,$(shell echo '$(NAMED)' | tr '[:upper:]' '[:lower:]'))-mirror
# SERVE=vllm: the image with vLLM in one more layer, under a tag of its own, for several GPUs (docs/serve.md)
SERVE ?=
WITH_VLLM = $(filter vllm,$(SERVE))
TAG ?= $(or $(TEST_MODEL),latest)$(if $(WITH_VLLM),-vllm)
# the files of the model with their sha256, and the revision; a list that is there is law
SUMS = $(if $(filter Qwen2.5-7B-Instruct,$(MODEL)),weights/SHA256SUMS,weights/models/$(MODEL).sums)
BASE_IMAGE ?= nvidia/cuda:12.8.1-base-ubuntu24.04
# a folder with the twelve files of the model, for MODEL_SOURCE=local
WEIGHTS ?=
# your own data, a file of this machine; empty means the 50 rows in the image
DATASET ?=
OUTPUT ?= output
# which run: newest, a run's name, or a folder below OUTPUT as this machine knows it; empty means the newest, but for infer,
# where it means the model as it came
ADAPTER ?=
# one question for make infer: Q="who are you?"
Q ?=
export Q
# the language of messages, zh or en; else what this machine's locale says
MIRROR_LANG ?= $(or $(LC_ALL),$(LC_MESSAGES),$(LANG))
export MIRROR_LANG
# who trains: auto, fast (the fast lane) or swift (ms-swift); empty is auto, see docs/engines.md
ENGINE ?=
export ENGINE
# who answers in serve and chat: auto, fast (qwen2's engine), swift (ms-swift) or vllm; empty is auto, see docs/serve.md
BACKEND ?= $(WITH_VLLM)
export BACKEND
# make chat, make serve: the port of this machine
PORT ?= 8000
# make export: q4_k_m, q5_k_m, q8_0 or f16
QUANT ?= q4_k_m
# where to push: host:port/name, the tag is TAG
REGISTRY ?=
# the image as a file, for save and load; .tar.zst, .tar.gz or .tar
FILE ?= $(IMAGE)-$(TAG).tar.zst
# several machines: NODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 on the first, NODE_RANK=1 on the second; OUTPUT is shared storage
NODES ?=
NODE_RANK ?= 0
MASTER_ADDR ?=
MASTER_PORT ?= 29500
RUN ?= nodes
# what else goes to the script in the container: make finetune ARGS='--num_train_epochs 3'
ARGS ?=
# make fuzz: seconds of processor time for each file of tests/fuzz
FUZZ_CPU_S ?= 600
# nearer mirrors for slow networks
PIP_INDEX_URL ?=
APT_MIRROR ?=
HF_ENDPOINT ?=
MODELSCOPE_DOMAIN ?=
# torch=cuda is the locked build; torch=cpu takes a local CPU wheel when this machine's pip knows one
TORCH ?= $(if $(filter none,$(GPUS)),cpu,cuda)

# what else goes to `docker build`: BUILD_FLAGS=--no-cache
BUILD_FLAGS ?=
# the date in the image's settings; the commit's, so that one commit gives one image id (docs/security.md)
SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)

# A mistyped variable, such as ADAPTR=newest, is refused: make itself says nothing about it.
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),'$(name)'))
$(if $(GIVEN),$(if $(shell MIRROR_LANG="$(MIRROR_LANG)" host/variables.sh $(GIVEN) || echo refused),$(error nothing was done)))

REF = $(IMAGE):$(TAG)
PLAIN_REF = $(IMAGE):$(if $(WITH_VLLM),$(TAG:%-vllm=%),$(TAG))
TEST_REF = $(IMAGE):test
WHEELS = $(CURDIR)/.cache/wheels
VENV = .venv

# usage: $(SAY) ENGLISH CHINESE -- prints one of them, by MIRROR_LANG
SAY = source entrypoint/log.sh; mirror_say

# usage: $(call make_venv,FOLDER)
make_venv = @python3 -m venv $(1) || { $(SAY) "error: python3 has no venv; on Debian: apt-get install python3-venv" "错误：python3 没有 venv；在 Debian 上请执行 apt-get install python3-venv" >&2; exit 1; }

# every recipe that needs Docker starts with this: an engine that answers, and the shell pointed at it
DOCKER_ENGINE = host/engine.sh start && eval "$$(host/engine.sh env)"

# make's own abspath and notdir take a name with spaces for several names
quoted = '$(subst ','\'',$(1))'
absolute = $(shell realpath -ms -- $(call quoted,$(1)))
name_of = $(shell basename -- $(call quoted,$(1)))

RUN_FLAGS = --rm --user "$$(id -u):$$(id -g)" --shm-size 2g \
  $(if $(filter none,$(GPUS)),-e MIRROR_DEVICE=cpu,--gpus $(GPUS)) \
  $(if $(DATASET),-v "$(call absolute,$(DATASET))":"/data/$(call name_of,$(DATASET))":ro) \
  -e NO_COLOR -e MIRROR_LANG -e HEALTH_LEVEL -e HEALTH_VERBOSE -e VRAM_CEILING_GIB -e ENGINE -e BACKEND -e NPROC_PER_NODE
# what messages of the container call by the names of this machine (common/host.py); in a shell they are the container's own
HOST_FLAGS = -e MIRROR_VIA=make -e MIRROR_HOST_DIR="$(CURDIR)" -e MIRROR_HOST_OUTPUT="$(call absolute,$(OUTPUT))" \
  $(if $(DATASET),-e MIRROR_HOST_DATASET="$(DATASET)")
NODE_FLAGS = $(if $(NODES),--network host -e NNODES=$(NODES) -e NODE_RANK=$(NODE_RANK) -e MASTER_ADDR=$(MASTER_ADDR) \
  -e MASTER_PORT=$(MASTER_PORT) -e MIRROR_MEET_S -e NCCL_SOCKET_IFNAME -e GLOO_SOCKET_IFNAME)
NODE_ARGS = $(if $(NODES),--output_dir /root/output/$(RUN))
# a run that goes on has its data by name already: DATASET only mounts them
DATASET_ARG = $(if $(findstring --resume,$(ARGS)),,$(if $(DATASET),--dataset "/data/$(call name_of,$(DATASET))"))
# usage: $(call mirror_look,VERB,ARGUMENTS,FLAGS) -- a container with the output folder of this machine, where there is one,
# owned by the caller; FLAGS are more flags of `docker run`
define mirror_look
@$(if $(DATASET),test -r "$(DATASET)" || { $(SAY) "error: DATASET=$(DATASET): no such file; give a path on this machine" "错误：DATASET=$(DATASET)：没有这个文件；请给出本机上的路径" >&2; exit 2; })
@$(DOCKER_ENGINE); tty=; if [ -t 0 ] && [ -t 1 ]; then tty=-it; fi; \
  output=(); if [ -d "$(OUTPUT)" ]; then output=(-v "$(call absolute,$(OUTPUT))":/root/output); fi; \
  docker run $$tty $(RUN_FLAGS) "$${output[@]}" $(if $(filter bash,$(1)),,$(HOST_FLAGS)) $(3) $(REF) $(1) $(2)
endef
# usage: $(call mirror_run,...) -- the same for what writes a run: it makes OUTPUT
define mirror_run
@mkdir -p "$(OUTPUT)"
$(call mirror_look,$(1),$(2),$(3))
endef
# an OUTPUT that is not there is a typing error, for what needs a run
need_output = @test -d "$(OUTPUT)" || { $(SAY) "error: OUTPUT=$(OUTPUT): no such folder, so there is no run in it; make finetune makes one, or name the folder of your runs" "错误：OUTPUT=$(OUTPUT)：没有这个目录，也就没有训练结果；make finetune 会创建它，或请给出训练结果所在的目录" >&2; exit 2; }
# usage: $(call mirror_use,...) -- the same for what needs a run
define mirror_use
$(need_output)
$(call mirror_look,$(1),$(2),$(3))
endef

# The list of verbs: `## text` is for users, `##o text` for operators, `##d text` for developers of this project; the same
# in Chinese stands after a second ` ## `.
# usage: $(call verbs_of,MARK) -- prints them in the order of this file
verbs_of = awk -v part="$$($(SAY) 1 2)" '/^[a-z][a-z_-]*:[^\#]*\#\#$(1) / \
  {verb = $$0; sub(/:.*/, "", verb); sub(/^[^\#]*\#\#$(1) /, ""); split($$0, text, " \#\# "); \
  printf "  %-12s %s\n", verb, text[part]}' $(MAKEFILE_LIST)

.PHONY: help
help: ##o this list ## 列出命令
	@$(SAY) "The mirror: from a bare GPU to a fine-tuned Qwen2.5-7B-Instruct that is proved to work." \
	  "镜像：从一块 GPU 到微调好并经过评测的 Qwen2.5-7B-Instruct。"
	@$(SAY) "usage: make VERB [VARIABLE=value ...]" "用法：make 命令 [变量=值 ...]"
	@$(SAY) "here:  GPUS=$(GPUS) MODEL_SOURCE=$(MODEL_SOURCE) image $(REF)" "当前：GPUS=$(GPUS) MODEL_SOURCE=$(MODEL_SOURCE) 镜像 $(REF)"
	@echo
	@$(call verbs_of,)
	@echo; $(SAY) "to run and pass on:" "运行与交付："
	@$(call verbs_of,o)
	@echo; $(SAY) "to work on the project:" "开发本项目："
	@$(call verbs_of,d)
	@echo
	@$(SAY) "Variables, with their defaults at the top of the Makefile: DATASET OUTPUT ADAPTER Q ENGINE ARGS GPUS" \
	  "变量（默认值见 Makefile 开头）：DATASET OUTPUT ADAPTER Q ENGINE ARGS GPUS"
	@$(SAY) "MODEL MODEL_SOURCE IMAGE TAG REGISTRY FILE. ENGINE=auto|fast|swift: who trains." \
	  "MODEL MODEL_SOURCE IMAGE TAG REGISTRY FILE。ENGINE=auto|fast|swift：用哪个引擎训练。"

.PHONY: image
image: # the image, built only when it is not there
	@$(if $(HAS_GPU),,$(SAY) "No NVIDIA GPU answers on this machine (nvidia-smi): stand-in weights, on the CPU." "本机没有可用的 NVIDIA GPU（nvidia-smi）：使用替身模型，在 CPU 上运行。" >&2)
	@$(DOCKER_ENGINE); docker image inspect $(REF) >/dev/null 2>&1 || $(MAKE) --no-print-directory build

BUILD_ARGS = --build-arg SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) \
  --build-arg MODEL_SOURCE=$(MODEL_SOURCE) --build-arg MODEL=$(MODEL) --build-arg TITLE=$(IMAGE) \
  --build-arg LICENSES=$(if $(findstring -3B,$(MODEL))$(findstring -72B,$(MODEL)),LicenseRef-Qwen,Apache-2.0) \
  $(PINNED) --build-arg PIP_INDEX_URL=$(PIP_INDEX_URL) \
  --build-arg APT_MIRROR=$(APT_MIRROR) --build-arg HF_ENDPOINT=$(HF_ENDPOINT) \
  --build-arg MODELSCOPE_DOMAIN=$(MODELSCOPE_DOMAIN) --build-arg VERSION="$$(cat VERSION)" \
  --build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
  $(if $(WEIGHTS),--build-context weights="$(WEIGHTS)")
# the commit that the list was made from, for the image's label
PINNED = $(if $(TEST_MODEL),,$(addprefix --build-arg MODEL_REVISION=,$(shell sed -n 's/^# revision huggingface //p' $(SUMS) 2>/dev/null)))
# usage: $(call docker_build,FLAGS) -- BASE is found first; a local CPU torch is used where one was asked for and is known
define docker_build
$(if $(filter local,$(MODEL_SOURCE)),$(if $(WEIGHTS),,@$(SAY) "error: MODEL_SOURCE=local needs WEIGHTS=DIR, the folder with the files of $(SUMS)" "错误：MODEL_SOURCE=local 需要 WEIGHTS=DIR，即存放 $(SUMS) 所列文件的目录" >&2; exit 2))
@$(DOCKER_ENGINE); base=$$(host/base-image.sh $(BASE_IMAGE)); torch=(); \
  if [ "$(TORCH)" = cpu ]; then \
    spec=$$(host/torch-cpu.sh $(WHEELS) $$base); \
    if [ -n "$$spec" ]; then torch=(--build-arg "TORCH_SPEC=$$spec" --build-context wheels=$(WHEELS)); fi; \
  fi; \
  docker build --build-arg BASE_IMAGE=$$base "$${torch[@]}" $(BUILD_ARGS) $(BUILD_FLAGS) $(1) .
endef

# what both hubs say of a model, by their own clients
weights/models/%.sums: | .cache/clients/.done
	@HF_ENDPOINT="$(HF_ENDPOINT)" MODELSCOPE_DOMAIN="$(MODELSCOPE_DOMAIN)" .cache/clients/bin/python weights/listing.py "$*"

.cache/clients/.done: weights/clients.lock
	$(call make_venv,.cache/clients)
	@.cache/clients/bin/pip install -q --disable-pip-version-check --require-hashes -r weights/clients.lock
	@touch $@

.PHONY: build
build: $(if $(TEST_MODEL),,$(SUMS)) ##o the image (MODEL_SOURCE=modelscope|huggingface|local|standin|smollm2 MODEL= SERVE=) ## 构建镜像（MODEL_SOURCE=modelscope|huggingface|local|standin|smollm2 MODEL= SERVE=）
	$(if $(WITH_VLLM),$(if $(filter cpu,$(TORCH)),@$(SAY) "error: SERVE=vllm needs the CUDA build of torch that its packages were made for; build where a GPU is or set TORCH=cuda" "错误：SERVE=vllm 需要 CUDA 版的 torch；请在有 GPU 的机器上构建，或设置 TORCH=cuda" >&2; exit 2))
	$(call docker_build,-t $(PLAIN_REF))
	$(if $(WITH_VLLM),@$(DOCKER_ENGINE); docker build -f Dockerfile.vllm --build-arg MIRROR=$(PLAIN_REF) --build-arg PIP_INDEX_URL=$(PIP_INDEX_URL) $(BUILD_FLAGS) -t $(REF) .)

.PHONY: check-data
check-data: image ## what is wrong with your data, by file and row (DATASET=my.json) ## 检查自己的数据，指出文件和行号（DATASET=my.json）
	@$(if $(DATASET),,$(SAY) "error: check-data needs DATASET=FILE, your data on this machine" "错误：check-data 需要 DATASET=FILE，即本机上的数据文件" >&2; exit 2)
	$(call mirror_look,check-data,"/data/$(call name_of,$(DATASET))" $(ARGS))

.PHONY: plan
plan: image ## will it fit, and how long will it take? (DATASET=my.json ARGS='--gpu 16') ## 显存够不够，要多长时间（DATASET=my.json ARGS='--gpu 16'）
	$(call mirror_look,plan,$(DATASET_ARG) $(ARGS))

.PHONY: finetune
finetune: image ## check, fine-tune, prove; adapter in OUTPUT (DATASET=my.json REWORD=2 MIX=40) ## 检查、微调、评测；适配器写入 OUTPUT（DATASET=my.json REWORD=2 MIX=40）
	$(if $(NODES),$(if $(MASTER_ADDR),,@$(SAY) "error: NODES=$(NODES) needs MASTER_ADDR, the address of the machine with NODE_RANK=0" "错误：NODES=$(NODES) 需要 MASTER_ADDR，即 NODE_RANK=0 那台机器的地址" >&2; exit 2))
	$(call mirror_run,finetune,$(DATASET_ARG) $(if $(REWORD),--reword $(REWORD)) $(if $(MIX),--mix $(MIX)) $(NODE_ARGS) $(ARGS),$(NODE_FLAGS))

.PHONY: infer
infer: image ## ask (Q="who are you?"), or talk; ADAPTER=newest is the fine-tuned model ## 提问（Q="你是谁？"）或对话；ADAPTER=newest 使用微调后的模型
	$(call $(if $(ADAPTER),mirror_use,mirror_look),infer,$(if $(ADAPTER),--adapter "$(ADAPTER)") $${Q:+"$$Q"} $(ARGS),$(if $(Q),,-i))

.PHONY: runs
runs: image ## the runs in OUTPUT: data, steps, loss, verdict, size ## OUTPUT 里的历次训练：数据、步数、损失、结论、大小
	$(call mirror_use,runs,$(ARGS))

.PHONY: verify
verify: image ##o the verdict again, on the newest adapter in OUTPUT or on ADAPTER ## 重新评测 OUTPUT 里最新的适配器，或 ADAPTER
	$(call mirror_use,verify,$(if $(ADAPTER),--adapter "$(ADAPTER)") $(ARGS))

.PHONY: shell
shell: image ##o a shell in the container, after the health checks ## 健康检查之后，打开容器里的 shell
	$(call mirror_run,bash)

.PHONY: bench
bench: image ##d the fast lane beside its peers on this GPU, 30 minutes; results in OUTPUT/bench ## 在本机 GPU 上与同类工具对比快速通道，30 分钟；结果在 OUTPUT/bench
	$(call mirror_run,python /opt/mirror/bench/run_all.py /root/output/bench $(ARGS),,$(foreach folder,bench workspace standin,-v "$(CURDIR)/$(folder)":/opt/mirror/$(folder):ro))

.PHONY: merge
merge: image ##o adapter and base as a model folder: the newest in OUTPUT, or ADAPTER ## 把适配器并入基座模型，得到模型目录：OUTPUT 里最新的，或 ADAPTER
	$(call mirror_use,merge,$(if $(ADAPTER),"$(ADAPTER)") $(ARGS))

.PHONY: export
export: image ##o one GGUF file for Ollama, llama.cpp, LM Studio (QUANT=q4_k_m|q5_k_m|q8_0|f16) ## 导出一个 GGUF 文件，供 Ollama、llama.cpp、LM Studio 使用（QUANT=q4_k_m|q5_k_m|q8_0|f16）
	$(call mirror_use,export,$(if $(ADAPTER),"$(ADAPTER)") --quant $(QUANT) $(ARGS))

# The newest adapter belongs to the image's own base: where ARGS names a model, none is taken unless ADAPTER names it.
SERVE_ADAPTER = $(if $(ADAPTER),--adapter "$(ADAPTER)",$(if $(filter --model --model=%,$(ARGS)),,--adapter newest))

# The container listens to every address of its own, and only this machine's loopback leads to it. Whoever has set no key gets
# one with the address.
SERVE_WORDS = --host 0.0.0.0 --url http://127.0.0.1:$(PORT) --new-key $(SERVE_ADAPTER) $(ARGS)
# usage: $(call port_free,PORT) -- ends with one line of ours where PORT is not a port or a program listens there
define port_free
@if [[ ! "$(1)" =~ ^[1-9][0-9]{0,4}$$ ]] || (($(1) > 65535)); then $(SAY) "error: PORT=$(1): must be a number from 1 to 65535, such as 8001" "错误：PORT=$(1)：应为 1 到 65535 的数字，例如 8001" >&2; exit 2; fi
@if (exec 3<>/dev/tcp/127.0.0.1/$(1)) 2>/dev/null; then $(SAY) "error: PORT=$(1): another program listens there; end it, or name another port (PORT=$$(($(1) + 1)))" "错误：PORT=$(1)：这个端口已被其他程序占用；请结束那个程序，或换一个端口（PORT=$$(($(1) + 1))）" >&2; exit 2; fi
endef
# 8000 is the endpoint's
CURVES_PORT = $(if $(filter file,$(origin PORT)),6006,$(PORT))
SERVE_FLAGS = -p 127.0.0.1:$(PORT):8000 -e MIRROR_API_KEY --stop-timeout 120

.PHONY: chat
chat: image ## base and fine-tuned model side by side, in a browser (PORT=8000) ## 在浏览器里并排比较基座与微调后的模型（PORT=8000）
	$(call port_free,$(PORT))
	$(call $(if $(SERVE_ADAPTER),mirror_use,mirror_look),serve,$(SERVE_WORDS),$(SERVE_FLAGS))

.PHONY: serve
serve: image ## an OpenAI-compatible endpoint on 127.0.0.1:8000 (MIRROR_API_KEY PORT=8000) ## 在 127.0.0.1:8000 提供兼容 OpenAI 的接口（MIRROR_API_KEY PORT=8000）
	$(call port_free,$(PORT))
	$(call $(if $(SERVE_ADAPTER),mirror_use,mirror_look),serve,$(SERVE_WORDS),$(SERVE_FLAGS))

.PHONY: mixed
mixed: image ##o the article's mixed run: the 50 rows and 500 of alpaca-gpt4-data-zh ## 原文的混合训练：50 行身份数据加 500 行 alpaca-gpt4-data-zh
	$(call mirror_run,sft_mixed,$(ARGS))

.PHONY: health
health: image ##o the health checks alone ## 只做健康检查
	$(call mirror_look,healthcheck,startup $(ARGS))

.PHONY: tensorboard
tensorboard: image ##o loss curves of the runs in OUTPUT, on 127.0.0.1:6006 ## 在 127.0.0.1:6006 查看 OUTPUT 里各次训练的损失曲线
	$(need_output)
	$(call port_free,$(CURVES_PORT))
	@$(SAY) "loss curves of $(call absolute,$(OUTPUT)): http://127.0.0.1:$(CURVES_PORT), Ctrl-C ends it" "$(call absolute,$(OUTPUT)) 的损失曲线：http://127.0.0.1:$(CURVES_PORT)，Ctrl-C 结束"
	@$(DOCKER_ENGINE); docker run --rm -p 127.0.0.1:$(CURVES_PORT):6006 -e HEALTH_LEVEL=off -v "$(call absolute,$(OUTPUT))":/root/output:ro $(REF) \
	  tensorboard --logdir /root/output --host 0.0.0.0 --port 6006 --load_fast=false \
	  2> >(grep -v --line-buffered -e "TensorFlow installation not found" -e "TensorBoard .* at http" >&2)

.PHONY: push
push: image ##o the image to a registry (REGISTRY=host:port/name); only what it lacks travels ## 把镜像推送到仓库（REGISTRY=host:port/name），只传对方缺少的部分
	@$(if $(REGISTRY),,$(SAY) "error: push needs REGISTRY=host:port/name, where the image is to go" "错误：push 需要 REGISTRY=host:port/name，即镜像的去处" >&2; exit 2)
	@$(DOCKER_ENGINE); docker tag $(REF) $(REGISTRY):$(TAG) && docker push $(REGISTRY):$(TAG)

.PHONY: save
save: image ##o the image as one compressed file with its sha256 (FILE=mirror.tar.zst) ## 把镜像存为一个压缩文件，附 sha256（FILE=mirror.tar.zst）
	@$(DOCKER_ENGINE); host/image-file.sh save $(REF) "$(FILE)"

.PHONY: load
load: ##o take in a FILE of `make save`, after its sha256 and the room were checked ## 载入 `make save` 写出的 FILE，先校验 sha256 和剩余空间
	@$(DOCKER_ENGINE); host/image-file.sh load "$(FILE)"

.PHONY: uninstall
uninstall: ##o remove images, caches and make's own engine; asks first (YES=1), keeps OUTPUT ## 删除镜像、缓存和 make 自带的引擎；先询问（YES=1 免问），保留 OUTPUT
	@host/uninstall.sh "$(IMAGE)" "$(call absolute,$(OUTPUT))" $(if $(YES),--yes)

# what syft reads: the image in Docker, or docker-archive:FILE
SCAN ?= docker:$(REF)
SBOM_DIR ?= build/sbom

.cache/sbom/.done: requirements/sbom.lock
	$(call make_venv,.cache/sbom)
	@.cache/sbom/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements/sbom.lock
	@touch $@

.PHONY: sbom
sbom: image .cache/sbom/.done ##o SPDX list of the image and its licences, checked, in build/sbom ## 镜像的 SPDX 清单及许可证检查，写入 build/sbom
	@mkdir -p "$(SBOM_DIR)"
	@$(DOCKER_ENGINE); SYFT_CHECK_FOR_APP_UPDATE=false .cache/sbom/bin/syft scan -q "$(SCAN)" -o spdx-json="$(SBOM_DIR)/image.spdx.json"
	@.cache/sbom/bin/python host/licences.py "$(SBOM_DIR)/image.spdx.json" "$(SBOM_DIR)/third-party-licences.md"

# ---- development ------------------------------------------------------------------------------------------------------

$(VENV)/.done: requirements/test.lock
	$(call make_venv,$(VENV))
	@$(VENV)/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements/test.lock
	@touch $@

.PHONY: lint
lint: $(VENV)/.done ##d shellcheck, shfmt, hadolint, ruff, mypy, yamllint, workflows, compose config ## shellcheck、shfmt、hadolint、ruff、mypy、yamllint、工作流、compose 配置
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" host/lint.sh
	@$(DOCKER_ENGINE); docker compose config -q && docker compose -f docker-compose.yml -f docker-compose.cpu.yml config -q && echo "compose: ok"

.PHONY: test
test: lint test-unit test-image ##d everything: lint, unit tests, the image's tests, whole runs on the stand-in ## 全部测试：代码检查、单元测试、镜像测试、用替身模型完整运行

.PHONY: test-build
test-build:
	@$(MAKE) --no-print-directory build MODEL_SOURCE=standin TAG=standin GPUS=none
	@$(MAKE) --no-print-directory build MODEL_SOURCE=smollm2 TAG=smollm2 GPUS=none
	@$(MAKE) --no-print-directory build-test-stage MODEL_SOURCE=standin GPUS=none

.PHONY: build-test-stage
build-test-stage:
	$(call docker_build,--target test --build-context locks=requirements -t $(TEST_REF))

.PHONY: test-unit
test-unit: test-build # in the image's own packages, on the source tree
	@$(DOCKER_ENGINE); docker run --rm -v "$(CURDIR)":/src:ro -w /src --shm-size 1g --tmpfs /tmp:exec -e CI -e PYTHONDONTWRITEBYTECODE=1 \
	  -e HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis $(TEST_REF) python -m pytest -q -p no:cacheprovider tests/unit tests/fuzz $(ARGS)

.PHONY: fuzz
fuzz: test-build ##d hypothesis against what users give (FUZZ_CPU_S=600 seconds a file of tests/fuzz) ## 用 hypothesis 随机测试用户输入（FUZZ_CPU_S=600 是 tests/fuzz 每个文件的秒数）
	@$(DOCKER_ENGINE); docker run --rm -v "$(CURDIR)":/src:ro -w /src --shm-size 1g --tmpfs /tmp:exec -e PYTHONDONTWRITEBYTECODE=1 \
	  -e OMP_NUM_THREADS=1 -e FUZZ_SEED -e FUZZ_CPU_S=$(FUZZ_CPU_S) $(TEST_REF) nice python -m pytest -q -s -p no:cacheprovider tests/fuzz $(ARGS)

.PHONY: test-image
test-image: test-build $(VENV)/.done # testinfra on running containers, then whole runs
	@$(DOCKER_ENGINE); MIRROR_IMAGE=$(IMAGE):standin MIRROR_REAL_IMAGE=$(IMAGE):smollm2 $(VENV)/bin/python -m pytest -q tests/image tests/flow $(ARGS)

.PHONY: messages
messages: $(VENV)/.done ##d bring common/locale/zh.po up to date with the messages in the code ## 按代码里的消息更新 common/locale/zh.po
	@$(VENV)/bin/python -m host.messages

.PHONY: lock
lock: $(VENV)/.done ##d resolve requirements/*.in into *.lock, with hashes ## 把 requirements/*.in 解析为带哈希的 *.lock
	@$(VENV)/bin/python -m venv .cache/uv && .cache/uv/bin/pip install -q --require-hashes -r requirements/build.lock
	@for in_file in requirements/{image,build,standin,smollm2,test,deepspeed,sbom}.in weights/clients.in; do \
	  flags=(--universal --generate-hashes --python-version 3.10 --no-header -q); \
	  case $$in_file in *clients* | *test*) flags+=(-c requirements/image.lock) ;; *standin* | *smollm2*) flags+=(--no-deps) ;; \
	    *deepspeed*) flags+=(--no-deps -c requirements/image.lock) ;; esac; \
	  .cache/uv/bin/uv pip compile "$${flags[@]}" $$in_file -o $${in_file%.in}.lock; \
	done
	@pins=$$(mktemp); trap 'rm -f "$$pins"' EXIT; older='^(numpy|setuptools)=='; \
	sed -E "/$$older/d; /^[a-z0-9]/!d; s/ \\\\$$//" requirements/image.lock >"$$pins"; \
	sed -nE "/$$older/d; s/^([a-z0-9._-]+)==.*/--no-emit-package=\1/p" requirements/image.lock | \
	  xargs .cache/uv/bin/uv pip compile --project requirements/vllm --universal --generate-hashes --python-version 3.10 --no-header \
	    --no-annotate -q -c "$$pins" requirements/image.in requirements/vllm/pyproject.toml -o requirements/vllm.lock

.PHONY: clean
clean: ##d remove what the tools left here; adapters in OUTPUT and images are kept ## 删除工具留下的文件；保留 OUTPUT 里的适配器和镜像
	rm -rf $(VENV) .cache build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
