"""Proof that a fine-tune changed what it should and nothing else."""
