#!/usr/bin/env bash
# Sorts /model into one folder per layer of the image, within the RUN that fetched it. Nothing is copied, so the 15 GB
# are on the disk only once. Called by the Dockerfile's weights stages.
#
# usage: model-layers.sh NAME   /model/*  ->  /layers/{1,2,3,4,small}/root/NAME/*
#
# One shard per layer. With more than four, neighbours share a layer; a layer without a shard is empty.
set -Eeuo pipefail

name=${1:?usage: model-layers.sh NAME}

# usage: layer LAYER FILE… -- move files into /layers/LAYER, readable by everyone
layer() {
  local folder=/layers/$1/root/$name
  shift
  mkdir -p "$folder"
  chmod 0644 "$@"
  mv "$@" "$folder"
}

mkdir -p /layers/{1,2,3,4,small}
shards=(/model/*.safetensors)
for i in "${!shards[@]}"; do
  layer $((i < 4 && ${#shards[@]} <= 4 ? i + 1 : i * 4 / ${#shards[@]} + 1)) "${shards[i]}"
done
layer small /model/*
