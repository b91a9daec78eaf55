"""The two training engines behind one set of options, and the choice between them."""
