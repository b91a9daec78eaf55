"""Behind the workspace scripts: settings, datasets, checkpoints, launching an engine, and verifying the result."""
