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
TAG ?= $(or $(TEST_MODEL),latest)
# the files of the model with their sha256, and the revision; a list that is there is law
SUMS = $(if $(filter Qwen2.5-7B-Instruct,$(MODEL)),weights/SHA256SUMS,weights/models/$(MODEL).sums)
BASE_IMAGE ?= nvidia/cuda:12.8.1-base-ubuntu24.04
# a folder with the twelve files of the model, for MODEL_SOURCE=local
WEIGHTS ?=
# your own data, a file of this machine; empty means the 50 rows in the image
DATASET ?=
OUTPUT ?= output
ADAPTER ?=
# the language of messages, zh or en; else what this machine's locale says
MIRROR_LANG ?= $(or $(LC_ALL),$(LC_MESSAGES),$(LANG))
export MIRROR_LANG
# who trains: auto, fast (the fast lane) or swift (ms-swift); empty is auto, see docs/engines.md
ENGINE ?=
export ENGINE
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

REF = $(IMAGE):$(TAG)
TEST_REF = $(IMAGE):test
WHEELS = $(CURDIR)/.cache/wheels
VENV = .venv

# every recipe that needs Docker starts with this: an engine that answers, and the shell pointed at it
DOCKER_ENGINE = host/engine.sh start && eval "$$(host/engine.sh env)"

RUN_FLAGS = --rm --user "$$(id -u):$$(id -g)" --shm-size 2g -v "$(abspath $(OUTPUT))":/root/output \
  $(if $(filter none,$(GPUS)),-e MIRROR_DEVICE=cpu,--gpus $(GPUS)) \
  $(if $(DATASET),-v "$(abspath $(DATASET))":"/data/$(notdir $(DATASET))":ro) \
  -e NO_COLOR -e MIRROR_LANG -e HEALTH_LEVEL -e VRAM_CEILING_GIB -e ENGINE
NODE_FLAGS = $(if $(NODES),--network host -e NNODES=$(NODES) -e NODE_RANK=$(NODE_RANK) -e MASTER_ADDR=$(MASTER_ADDR) \
  -e MASTER_PORT=$(MASTER_PORT) -e NPROC_PER_NODE)
NODE_ARGS = $(if $(NODES),--output_dir /root/output/$(RUN))
DATASET_ARG = $(if $(DATASET),--dataset "/data/$(notdir $(DATASET))")
# usage: $(call mirror_run,VERB,ARGUMENTS,FLAGS) -- a container with the output folder of this machine, owned by the caller;
# FLAGS are more flags of `docker run`
define mirror_run
@mkdir -p "$(OUTPUT)"
@$(if $(DATASET),test -r "$(DATASET)" || { echo "error: DATASET=$(DATASET): no such file; give a path on this machine" >&2; exit 2; })
@$(DOCKER_ENGINE); tty=; if [ -t 0 ] && [ -t 1 ]; then tty=-it; fi; \
  docker run $$tty $(RUN_FLAGS) $(3) $(REF) $(1) $(2)
endef

.PHONY: help
help: ## this list
	@echo "The mirror: from a bare GPU to a fine-tuned Qwen2.5-7B-Instruct that is proved to work."
	@echo "usage: make VERB [VARIABLE=value ...]"
	@echo
	@grep -hE '^[a-z][a-z_-]*:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'
	@echo
	@echo "Variables: IMAGE GPUS MODEL MODEL_SOURCE DATASET OUTPUT ADAPTER ENGINE ARGS REGISTRY FILE (defaults are at the top of the Makefile)."
	@echo "ENGINE=auto|fast|swift: who trains, the fast lane or ms-swift (auto takes the fast lane where it can)."
	@echo "Here: GPUS=$(GPUS) MODEL_SOURCE=$(MODEL_SOURCE) image $(REF)"

.PHONY: image
image: # the image, built only when it is not there
	@$(if $(HAS_GPU),,echo "No NVIDIA GPU answers on this machine (nvidia-smi): stand-in weights, on the CPU." >&2)
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
$(if $(filter local,$(MODEL_SOURCE)),$(if $(WEIGHTS),,@echo "error: MODEL_SOURCE=local needs WEIGHTS=DIR, the folder with the files of $(SUMS)" >&2; exit 2))
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
	@python3 -m venv .cache/clients || { echo "error: python3 has no venv; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@.cache/clients/bin/pip install -q --disable-pip-version-check --require-hashes -r weights/clients.lock
	@touch $@

.PHONY: build
build: $(if $(TEST_MODEL),,$(SUMS)) ## build the image (MODEL_SOURCE=modelscope|huggingface|local|standin|smollm2, MODEL=Qwen2.5-1.5B-Instruct)
	$(call docker_build,-t $(REF))

.PHONY: shell
shell: image ## a shell in the container, after the health checks
	$(call mirror_run,bash)

.PHONY: infer
infer: image ## ask the model (ADAPTER=DIR for a fine-tuned one, ARGS='"你是谁?"' for one question)
	$(call mirror_run,infer,$(if $(ADAPTER),--adapter "$(ADAPTER)") $(ARGS))

.PHONY: finetune
finetune: image ## check, fine-tune, prove: the adapter lands in OUTPUT (DATASET=my.json for your own data, REWORD=2 rewords it)
	$(if $(NODES),$(if $(MASTER_ADDR),,@echo "error: NODES=$(NODES) needs MASTER_ADDR, the address of the machine with NODE_RANK=0" >&2; exit 2))
	$(call mirror_run,finetune,$(DATASET_ARG) $(if $(REWORD),--reword $(REWORD)) $(NODE_ARGS) $(ARGS),$(NODE_FLAGS))

.PHONY: verify
verify: image ## the verdict on the newest adapter in OUTPUT, or on ADAPTER
	$(call mirror_run,verify,$(if $(ADAPTER),--adapter "$(ADAPTER)") $(ARGS))

.PHONY: plan
plan: image ## will it fit the card? before anything is loaded (DATASET=my.json, ARGS='--gpu 16' for another card)
	$(call mirror_run,plan,$(DATASET_ARG) $(ARGS))

.PHONY: bench
bench: image ## the fast lane beside its peers on this GPU, about 30 minutes: tables, JSON and a plot in OUTPUT/bench
	$(call mirror_run,python /opt/mirror/bench/run_all.py /root/output/bench $(ARGS),,$(foreach folder,bench workspace standin,-v "$(CURDIR)/$(folder)":/opt/mirror/$(folder):ro))

.PHONY: merge
merge: image ## a model folder that needs no adapter, from the newest adapter in OUTPUT, or from ADAPTER
	$(call mirror_run,merge,$(if $(ADAPTER),"$(ADAPTER)") $(ARGS))

.PHONY: export
export: image ## one GGUF file for Ollama, llama.cpp and LM Studio, proved (QUANT=q5_k_m, q8_0 or f16 in place of q4_k_m)
	$(call mirror_run,export,$(if $(ADAPTER),"$(ADAPTER)") --quant $(QUANT) $(ARGS))

# The newest adapter belongs to the image's own base: where ARGS names a model, none is taken unless ADAPTER names it.
SERVE_ADAPTER = $(if $(ADAPTER),--adapter "$(ADAPTER)",$(if $(filter --model --model=%,$(ARGS)),,--adapter newest))

.PHONY: serve
serve: image ## an OpenAI-compatible endpoint on 127.0.0.1:8000, newest adapter or ADAPTER (needs MIRROR_API_KEY set)
	$(call mirror_run,serve,--host 0.0.0.0 $(SERVE_ADAPTER) $(ARGS),-p 127.0.0.1:8000:8000 -e MIRROR_API_KEY --stop-timeout 120)

.PHONY: mixed
mixed: image ## the article's mixed run: the 50 rows and 500 of alpaca-gpt4-data-zh
	$(call mirror_run,sft_mixed,$(ARGS))

.PHONY: health
health: image ## the health checks alone
	$(call mirror_run,healthcheck,startup $(ARGS))

.PHONY: tensorboard
tensorboard: image ## loss curves of the runs in OUTPUT, on 127.0.0.1:6006
	@mkdir -p "$(OUTPUT)"
	@$(DOCKER_ENGINE); docker run --rm -p 127.0.0.1:6006:6006 -e HEALTH_LEVEL=off -v "$(abspath $(OUTPUT))":/root/output:ro $(REF) \
	  tensorboard --logdir /root/output --host 0.0.0.0 --port 6006

.PHONY: push
push: image ## the image to a registry, REGISTRY=host:port/name; only layers that it lacks travel
	@$(if $(REGISTRY),,echo "error: push needs REGISTRY=host:port/name, where the image is to go" >&2; exit 2)
	@$(DOCKER_ENGINE); docker tag $(REF) $(REGISTRY):$(TAG) && docker push $(REGISTRY):$(TAG)

.PHONY: save
save: image ## the image as one compressed file with its sha256 beside it (FILE=mirror.tar.zst), for machines without a registry
	@$(DOCKER_ENGINE); host/image-file.sh save $(REF) "$(FILE)"

.PHONY: load
load: ## load a FILE that `make save` wrote, after its sha256 and the room were checked
	@$(DOCKER_ENGINE); host/image-file.sh load "$(FILE)"

# what syft reads: the image in Docker, or docker-archive:FILE
SCAN ?= docker:$(REF)
SBOM_DIR ?= build/sbom

.cache/sbom/.done: requirements/sbom.lock
	@python3 -m venv .cache/sbom && .cache/sbom/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements/sbom.lock
	@touch $@

.PHONY: sbom
sbom: image .cache/sbom/.done ## SPDX list of the image, its third-party licences, and their check, in build/sbom
	@mkdir -p "$(SBOM_DIR)"
	@$(DOCKER_ENGINE); SYFT_CHECK_FOR_APP_UPDATE=false .cache/sbom/bin/syft scan -q "$(SCAN)" -o spdx-json="$(SBOM_DIR)/image.spdx.json"
	@.cache/sbom/bin/python host/licences.py "$(SBOM_DIR)/image.spdx.json" "$(SBOM_DIR)/third-party-licences.md"

# ---- development ------------------------------------------------------------------------------------------------------

$(VENV)/.done: requirements/test.lock
	@python3 -m venv $(VENV) || { echo "error: python3 has no venv; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(VENV)/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements/test.lock
	@touch $@

.PHONY: lint
lint: $(VENV)/.done ## shellcheck, shfmt, hadolint, ruff, mypy, yamllint, workflows, compose config
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" host/lint.sh
	@$(DOCKER_ENGINE); docker compose config -q && docker compose -f docker-compose.yml -f docker-compose.cpu.yml config -q && echo "compose: ok"

.PHONY: test
test: lint test-unit test-image ## everything: lint, unit tests, the image's tests, whole runs on the stand-in

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
fuzz: test-build ## hypothesis against what users give: FUZZ_CPU_S=600 seconds of processor time a file of tests/fuzz
	@$(DOCKER_ENGINE); docker run --rm -v "$(CURDIR)":/src:ro -w /src --shm-size 1g --tmpfs /tmp:exec -e PYTHONDONTWRITEBYTECODE=1 \
	  -e OMP_NUM_THREADS=1 -e FUZZ_SEED -e FUZZ_CPU_S=$(FUZZ_CPU_S) $(TEST_REF) nice python -m pytest -q -s -p no:cacheprovider tests/fuzz $(ARGS)

.PHONY: test-image
test-image: test-build $(VENV)/.done # testinfra on running containers, then whole runs
	@$(DOCKER_ENGINE); MIRROR_IMAGE=$(IMAGE):standin MIRROR_REAL_IMAGE=$(IMAGE):smollm2 $(VENV)/bin/python -m pytest -q tests/image tests/flow $(ARGS)

.PHONY: messages
messages: $(VENV)/.done ## bring common/locale/zh.po up to date with the messages in the code
	@$(VENV)/bin/python -m host.messages

.PHONY: lock
lock: $(VENV)/.done ## resolve requirements/*.in into *.lock, with hashes
	@$(VENV)/bin/python -m venv .cache/uv && .cache/uv/bin/pip install -q --require-hashes -r requirements/build.lock
	@for in_file in requirements/{image,build,standin,smollm2,test,deepspeed,sbom}.in weights/clients.in; do \
	  flags=(--universal --generate-hashes --python-version 3.10 --no-header -q); \
	  case $$in_file in *clients* | *test*) flags+=(-c requirements/image.lock) ;; *standin* | *smollm2*) flags+=(--no-deps) ;; \
	    *deepspeed*) flags+=(--no-deps -c requirements/image.lock) ;; esac; \
	  .cache/uv/bin/uv pip compile "$${flags[@]}" $$in_file -o $${in_file%.in}.lock; \
	done

.PHONY: clean
clean: ## remove what the tools left here; adapters in OUTPUT and images are kept
	rm -rf $(VENV) .cache build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
