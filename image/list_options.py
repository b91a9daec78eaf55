"""Records the options of the image's ms-swift, inside `docker build`, for finetune/engines/swift/options.py."""

from __future__ import annotations

from finetune.engines.swift import options

if __name__ == "__main__":
    options.write()
