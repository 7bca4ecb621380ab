"""What the tests judge by: NumPy references, interpreters of networks, transformers with a checkpoint's numbers."""
