"""The start-up checks, one module each: NAME, LEVEL and `check(context) -> Outcome`; startup.py runs them in order."""
