"""The Triton model tensorrt_llm_bls; the code is in the installed package."""

from inflight.triton_backend.text_models.tensorrt_llm_bls import TritonPythonModel as TritonPythonModel
