#!/usr/bin/env bash
# Sorts /model into one folder for each layer of the image, within the RUN that fetched it: nothing is copied, the 15 GB
# lie on the disk once; called by the Dockerfile's weights stages.
#
# usage: model-layers.sh   /model/*  ->  /layers/{1,2,3,4,small}/root/Qwen2.5-7B-Instruct/*
set -Eeuo pipefail

# usage: layer NAME FILE… -- move files into /layers/NAME, readable by everyone
layer() {
  local folder=/layers/$1/root/Qwen2.5-7B-Instruct
  shift
  mkdir -p "$folder"
  chmod 0644 "$@"
  mv "$@" "$folder"
}

for shard in 1 2 3 4; do
  layer "$shard" "/model/model-0000$shard-of-00004.safetensors"
done
layer small /model/*.json /model/merges.txt /model/LICENSE /model/SHA256SUMS
