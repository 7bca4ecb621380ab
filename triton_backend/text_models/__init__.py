"""The Triton models that take or return text: preprocessing, postprocessing, tensorrt_llm_bls."""
