"""From an adapter to a standalone model folder: merged by qwen2 or ms-swift and checked for the same answers."""
