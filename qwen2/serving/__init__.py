"""Answers to many requests at a time: rows that come and go in one batch, over a cache in pages; finetune/serve calls it."""
