"""The APIs of other servers over the same service (docs/formats/dialects.md).

Each reads a request into a body of OpenAI's, and writes the events of its answer in its own words.
"""
