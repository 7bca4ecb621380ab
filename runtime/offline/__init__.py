"""The offline LLM class: batches of prompts in the caller's own thread."""
