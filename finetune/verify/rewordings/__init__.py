"""The questions of a dataset in other words: made by the base model or by rules, kept in rewordings.yaml, read back."""
