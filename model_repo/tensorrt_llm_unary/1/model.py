"""The Triton model tensorrt_llm_unary; the code is in the installed package."""

from inflight.triton_backend.tensorrt_llm.unary_model import TritonPythonModel as TritonPythonModel
