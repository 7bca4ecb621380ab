"""Which engine a command or the class LLM means: one that is there, or one that is made of a model."""
