"""The Triton models around it that speak text: preprocessing, postprocessing, tensorrt_llm_bls."""
