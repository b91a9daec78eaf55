"""The fast backend of serve.sh: qwen2's engine in its own process, and the endpoint that sends it requests."""
