"""The demonstration model: its data out of Python's standard library, its training, its evaluation and its card."""
