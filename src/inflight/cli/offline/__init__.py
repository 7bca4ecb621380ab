"""Commands that run an engine in their own process and end."""
