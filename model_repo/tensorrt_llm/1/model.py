"""The Triton model tensorrt_llm; the code is in the installed package."""

from inflight.triton_backend.tensorrt_llm.model import TritonPythonModel as TritonPythonModel
