"""What a run leaves and holds: its folder, its checkpoints, the GPU and its progress."""
