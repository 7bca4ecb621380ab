"""GGUF files as sources: llama.cpp's metadata, tensors and tokenizer, as a Hugging Face model has them."""
