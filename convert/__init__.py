"""Hugging Face models to checkpoints: names, families, sharding, and the checkpoint format itself."""
