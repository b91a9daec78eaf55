"""The fast lane: qwen2's training behind sft.sh."""
