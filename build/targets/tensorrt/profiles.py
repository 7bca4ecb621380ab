"""Optimization profiles: the ranges of sizes that an engine takes. One for decodes, one for everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from inflight.build.targets.tensorrt.api import Builder, BuilderConfig, Network, Tensor, made
from inflight.build.targets.tensorrt.lower_attention import QUERY_STARTS
from inflight.errors import BuildError
from inflight.runtime.manifest import Limits

# Least, typical and greatest size.
Range: TypeAlias = tuple[int, int, int]
DECODE, MIXED = 0, 1


def profile_ranges(limits: Limits) -> list[Mapping[str, Range]]:
    """The sizes T, B, L and R (network.py) of the decode profile, then of the mixed one."""
    batch, tokens = limits.max_batch_size, limits.max_num_tokens
    longest = min(tokens, limits.max_seq_len)
    return [
        {"B": _range(batch), "L": (1, 1, 1), "T": _range(batch), "R": (1, batch, limits.max_logit_rows)},
        {
            "B": (1, 1, batch),
            "L": (1, longest, longest),
            "T": (1, longest, tokens),
            "R": (1, 1, limits.max_logit_rows),
        },
    ]


def add_profiles(builder: Builder, config: BuilderConfig, network: Network, limits: Limits) -> None:
    """Raises BuildError when TensorRT takes one for inconsistent."""
    for ranges in profile_ranges(limits):
        profile = made(builder.create_optimization_profile(), "an optimization profile")
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            if any(dim < 0 for dim in tensor.shape):
                profile.set_shape(tensor.name, *(_shape(tensor, ranges, which) for which in range(3)))
        if config.add_optimization_profile(profile) < 0:
            raise BuildError(f"TensorRT refused the optimization profile {dict(ranges)}; its log says why.")


def _shape(tensor: Tensor, ranges: Mapping[str, Range], which: int) -> tuple[int, ...]:
    if tensor.name == QUERY_STARTS:
        return (ranges["B"][which] + 1,)
    names = (tensor.get_dimension_name(axis) for axis in range(len(tensor.shape)))
    return tuple(ranges[name][which] if dim < 0 else dim for dim, name in zip(tensor.shape, names, strict=True))


def _range(greatest: int) -> Range:
    return 1, max(1, greatest // 2), greatest
