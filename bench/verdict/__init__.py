"""Does the verdict distinguish good training from bad? A real small model on a GPU; `python -m bench.verdict.run`."""
