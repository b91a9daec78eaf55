"""Is this container fit to fine-tune? Start-up checks, probe and report: what the command `healthcheck` runs."""
