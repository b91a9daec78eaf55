"""The start-up checks, one module each with `check(context) -> Outcome`; startup.py has their order and levels."""
