"""The questions that a verdict makes from a dataset: its rows, what kind of data they are, and the sets asked."""
