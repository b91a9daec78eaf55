"""Questions and conversations at the terminal."""
