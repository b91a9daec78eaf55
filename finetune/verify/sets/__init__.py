"""What a verdict asks of any dataset: its rows, what kind of data they are, and the questions made from them."""
