"""The Triton model tensorrt_llm: token ids in, token ids out, the engine in between."""
