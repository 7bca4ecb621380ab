"""Optimization profiles: the ranges of sizes that an engine takes. One for decodes, one for everything."""

from __future__ import annotations

from inflight.build.targets.tensorrt.api import Builder, BuilderConfig, Network, Tensor, made
from inflight.build.targets.tensorrt.lowering.cache_layout import CacheLayout, Ranges
from inflight.engine_format.manifest import Limits
from inflight.errors import BuildError


def add_profiles(
    builder: Builder, config: BuilderConfig, network: Network, layout: CacheLayout, limits: Limits
) -> None:
    """Decodes first, then everything. Raises BuildError when TensorRT takes one for inconsistent."""
    for ranges in layout.ranges(limits):
        profile = made(builder.create_optimization_profile(), "an optimization profile")
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            if any(dim < 0 for dim in tensor.shape):
                profile.set_shape(tensor.name, *(_shape(tensor, ranges, which) for which in range(3)))
        if config.add_optimization_profile(profile) < 0:
            raise BuildError(f"TensorRT refused the optimization profile {dict(ranges)}; its log says why.")


def _shape(tensor: Tensor, ranges: Ranges, which: int) -> tuple[int, ...]:
    names = (tensor.get_dimension_name(axis) for axis in range(len(tensor.shape)))
    return tuple(ranges[name][which] if dim < 0 else dim for dim, name in zip(tensor.shape, names, strict=True))
