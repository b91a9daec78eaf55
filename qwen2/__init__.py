"""The Qwen2 decoder in plain torch: load, train a LoRA, generate; called by finetune and the start-up check."""
