"""From a network to the bytes of a plan and its weights."""
