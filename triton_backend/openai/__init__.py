"""The OpenAI-compatible shim: OpenAI's wire format on one side, token ids on the other."""
