"""Continuous batching: answers to many requests in one batch whose rows join and leave; for finetune/serve."""
