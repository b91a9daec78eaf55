"""Fits a run to a GPU before a model is loaded: micro-batch, checkpointing and liger, from lengths and config.json."""
