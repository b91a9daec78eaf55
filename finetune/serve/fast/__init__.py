"""The fast backend of serve.sh: qwen2's engine in a process of its own, and the endpoint that asks it."""
