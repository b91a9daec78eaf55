"""The commands behind the scripts of the workspace and the launchers on PATH: one file a verb."""
