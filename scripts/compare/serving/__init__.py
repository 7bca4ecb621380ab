"""Servers measured by their clients, beside the offline engine on the same prompts."""
