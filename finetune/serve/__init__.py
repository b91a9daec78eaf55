"""An OpenAI-compatible endpoint for base, adapters and merged models, by qwen2's engine or by `swift deploy`."""
