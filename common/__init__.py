"""What every package of the mirror shares; it needs only the standard library and imports nothing of ours."""
