"""The Triton model tensorrt_llm; the code is in the installed package."""

from inflight.triton_backend.models.tensorrt_llm import TritonPythonModel as TritonPythonModel
