"""The Triton model postprocessing; the code is in the installed package."""

from inflight.triton_backend.text_models.postprocessing import TritonPythonModel as TritonPythonModel
