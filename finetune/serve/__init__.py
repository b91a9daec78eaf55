"""An OpenAI-compatible endpoint for base, adapters and merged models: `swift deploy` with a guard in front."""
