"""Proof that a fine-tune changed what it should and nothing else; verify.sh runs it as `python -m finetune.verify`."""
