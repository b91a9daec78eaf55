"""What every package of the mirror shares; it needs the standard library alone and imports nothing of ours."""
