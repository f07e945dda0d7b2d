"""Weights, configurations and tokenizers as other projects store them: Hugging Face, GGUF, PEFT."""
