"""Snippets of the documentation of other servers, with the address and the model's name changed."""
