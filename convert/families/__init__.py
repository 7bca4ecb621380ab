"""Model families: how a Hugging Face architecture maps to a checkpoint."""
