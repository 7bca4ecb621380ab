"""What answers are made of: their choices, log probabilities, usage, and JSON."""
