"""Code shared by every package of the mirror; uses only the standard library and imports no other package of ours."""
