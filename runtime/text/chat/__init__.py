"""Chats to prompts: messages, the template of the model, and the limits it runs in."""
