"""Answers to many requests at a time, in one batch whose rows come and go; for finetune/serve."""
