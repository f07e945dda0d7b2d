"""The student and its formats: one decoder, Hugging Face folders and GGUF files in, folders out."""
