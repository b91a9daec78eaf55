"""Training of a LoRA adapter: steps, gradients by hand, memory, checkpoints."""
