"""Random models of families beyond the first ones."""
