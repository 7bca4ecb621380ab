"""Bigrams: the logits after a token are the rows of lm_head times its embedding, and nothing in between is run."""
