"""A run's resources: its folder, its checkpoints, the GPU lock and its progress."""
