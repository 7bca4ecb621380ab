"""The clients that measure: the OpenAI API over HTTP, and Triton over gRPC."""
