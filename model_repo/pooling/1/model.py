"""The Triton model pooling; the code is in the installed package."""

from inflight.triton_backend.pooling.model import TritonPythonModel as TritonPythonModel
