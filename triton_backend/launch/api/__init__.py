"""The process of the OpenAI-compatible API: as it is started, and what it does."""
