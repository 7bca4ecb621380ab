"""Models whose hidden states are pooled: how they tell, and what becomes of the states."""
