"""What the text of a chat answer is made of: reasoning, content and tool calls, told apart as it grows."""
