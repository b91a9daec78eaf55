"""Does the verdict tell good trainings from bad ones? A real small model on a GPU; `python -m bench.verdict.run`."""
