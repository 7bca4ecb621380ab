"""The model as a standard ONNX graph."""

from inflight.build.network.files import save_network
from inflight.build.network.network import build_network

__all__ = ["build_network", "save_network"]
