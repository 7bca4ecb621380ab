"""The places of the checkpoint's tensors: left out and refitted, bound as inputs, or inside the plan."""

from __future__ import annotations

from math import prod

from inflight.build.targets.tensorrt.api import (
    ConstantLayer,
    Enumerator,
    Module,
    Network,
    Tensor,
    Weights,
    made,
)
from inflight.build.targets.tensorrt.lowering.host_tensor import Array, HostTensor
from inflight.errors import BuildError


class PlanWeights:
    """Every weight lies in the plan. TensorRT keeps pointers, so this object must live until the build has ended."""

    def __init__(self, trt: Module) -> None:
        self.used: list[HostTensor] = []
        self._trt = trt
        self._memory: list[Array] = []

    def tensor(self, network: Network, host: HostTensor, dtype: Enumerator) -> Tensor:
        self.used.append(host)
        self._memory.append(host.packed())
        weights = self._trt.Weights(dtype, self._memory[-1].ctypes.data, prod(host.shape))
        return _constant(network, host, weights).get_output(0)


class RefitWeights:
    """No weight lies in the plan: each is a named placeholder that the loader refits from the weights file.

    The plan is built with STRIP_PLAN and REFIT_INDIVIDUAL.
    """

    def __init__(self, trt: Module) -> None:
        self.used: list[HostTensor] = []
        self._trt = trt

    def tensor(self, network: Network, host: HostTensor, dtype: Enumerator) -> Tensor:
        layer = _constant(network, host, self._trt.Weights(dtype, 0, prod(host.shape)))
        # The layer's own view of the weights is what the network knows them by.
        if not network.set_weights_name(layer.weights, host.name) or not network.mark_weights_refittable(host.name):
            raise BuildError(
                f"TensorRT cannot leave the weights {host.name} out of the plan.", "Build with --weights inputs."
            )
        self.used.append(host)
        return layer.get_output(0)


class InputWeights:
    """Each weight is an input of the network, bound to device memory when the engine is loaded."""

    def __init__(self, trt: Module) -> None:
        self.used: list[HostTensor] = []

    def tensor(self, network: Network, host: HostTensor, dtype: Enumerator) -> Tensor:
        self.used.append(host)
        return made(network.add_input(host.name, dtype, host.shape), host.name)


def _constant(network: Network, host: HostTensor, weights: Weights) -> ConstantLayer:
    layer = made(network.add_constant(host.shape, weights), host.name)
    layer.name = layer.get_output(0).name = host.name
    return layer
