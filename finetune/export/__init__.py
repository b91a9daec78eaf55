"""From an adapter to one GGUF file for Ollama, llama.cpp and LM Studio, proved by llama.cpp on the file itself."""
