"""The Triton model preprocessing; the code is in the installed package."""

from inflight.triton_backend.text_models.preprocessing import TritonPythonModel as TritonPythonModel
