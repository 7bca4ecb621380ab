"""Starting a server of several models: their Triton models, their engines, what is watched of them."""
