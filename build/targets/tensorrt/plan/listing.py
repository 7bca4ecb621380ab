"""What `inflight inspect` shows of a plan: TensorRT reads one only where a GPU is, so the build writes it down."""

from __future__ import annotations

from typing import Any

from inflight.build.targets.tensorrt.api import Network, Tensor


def network_listing(network: Network) -> dict[str, list[dict[str, Any]]]:
    """Bindings (inputs and outputs) and layers, in order; -1 is a size that each run chooses."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return {
        "bindings": [
            *({"binding": tensor.name, "direction": "input", **_facts(tensor)} for tensor in inputs),
            *({"binding": tensor.name, "direction": "output", **_facts(tensor)} for tensor in outputs),
        ],
        "layers": [{"layer": layer.name, "kind": layer.type.name, **_facts(layer.get_output(0))} for layer in layers],
    }


def _facts(tensor: Tensor) -> dict[str, Any]:
    return {"type": tensor.dtype.name, "shape": list(tensor.shape)}
