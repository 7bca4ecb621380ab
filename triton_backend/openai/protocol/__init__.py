"""The bodies of requests: OpenAI's parameters, and vLLM's beside them.

A parameter that is not declared here is refused by name; one that is declared and cannot be honoured is refused with
the reason, unless its value asks for nothing.
"""
