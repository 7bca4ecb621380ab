"""The launches that choose a step's tokens, and the kernel that hands them to the next step before they were read."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from inflight.build.gpu_kernels.kernels import (
    greatest_logits,
    linear,
    quantized_linear,
    sampled_tokens,
    sampling_adjust,
    sampling_counts,
    sampling_draw,
    sampling_report,
    sampling_search,
)
from inflight.build.gpu_kernels.sampling_chain import Plane, report_planes, sampling_chain, sampling_planes
from inflight.build.gpu_kernels.spec import KernelSpec, Variant
from inflight.build.targets.cuda.launch_plan import KernelList, PlannedLaunch
from inflight.build.targets.cuda.places import aligned
from inflight.engine_format.cuda_facts import Launch, Operand, SamplingList
from inflight.engine_format.manifest import Limits

# As many rows as the planes are for: 12 bytes for each of them and token, 98 MB for Llama 3. A step seldom has more.
_ROWS_AT_ONCE, _ROW_STEP = 64, 16
_FLOAT_BYTES = 4
_MODULES = (sampling_adjust, sampling_counts, sampling_search, sampling_draw, sampling_report)
_SPECS = {spec.function: spec for module in _MODULES for spec in module.SPECS}
_RESULTS = ("tokens", "logprobs", "ranks", "top_ids", "top_logprobs")
(_FOLLOW,) = sampled_tokens.SPECS
(_GREATEST,) = greatest_logits.SPECS
# Products that know the greatest of each row, and their variants that do.
_CHOOSING = {"linear": linear.choosing, "quantized_linear": quantized_linear.choosing}
# The first of what is zero between steps.
_PLACES = Operand(place="zeros", row_bytes=8)


def take_sampled_tokens(kernels: KernelList) -> Launch:
    """The launch before all others: tokens that the step before has chosen."""
    operands = {
        "follows": Operand(place="step", name="follows"),
        "tokens": Operand(place="results", name="tokens"),
        "token_ids": Operand(place="step", name="token_ids"),
        "rows": Operand(place="size", name="rows"),
    }
    return kernels.launch("sampled_tokens", PlannedLaunch.of(_FOLLOW, Variant(), operands, "tokens"))


def list_logits(kernels: KernelList, name: str, product: PlannedLaunch) -> list[Launch]:
    """The launches of the operator that makes the logits: written, or, where it is a product, the token of the greatest
    of each row in their place."""
    choosing = _CHOOSING.get(product.spec.function)
    if choosing is None:
        return [kernels.launch(name, product)]
    choices = tuple((most, choosing(variant)) for most, variant in product.choices)
    chosen = replace(product, choices=choices, operands={**product.operands, "y": _PLACES})
    operands = {
        "greatest": _PLACES,
        "tokens": Operand(place="results", name="tokens"),
        "rows": Operand(place="size", name="rows"),
    }
    tokens = PlannedLaunch.of(_GREATEST, Variant(), operands, product.rows)
    return [
        kernels.launch(name, product, when="logits"),
        kernels.launch(name, chosen, when="greedy"),
        kernels.launch("greatest_tokens", tokens, when="greedy"),
    ]


def list_sampling(kernels: KernelList, limits: Limits, vocab: int, logits: int) -> SamplingList:
    """`logits`: where in the arena those are, float32 [logit rows, vocab]."""
    rows = min(_ROWS_AT_ONCE, -(-limits.max_logit_rows // _ROW_STEP) * _ROW_STEP)
    greatest = Plane((limits.max_logit_rows,), "int64", zero=True)
    places, sizes = _planes(
        {"greatest": greatest, **sampling_planes(rows, vocab, limits.max_batch_size), **report_planes(rows, vocab)}
    )
    places["logits"] = Operand(place="arena", at=logits, row_bytes=vocab * _FLOAT_BYTES)
    places |= {name: Operand(place="results", name=name) for name in _RESULTS}
    launches = []
    for link in sampling_chain(vocab):
        spec = _SPECS[link.function]
        numbers = {name: Operand(place="number", at=value) for name, value in link.scalars.items()}
        operands = {**_arguments(spec, places), **{name: numbers[name] for name in link.scalars}}
        planned = PlannedLaunch.of(spec, link.variant, operands, "logit_rows")
        launches.append(kernels.launch(link.function, planned, when=link.when))
    return SamplingList(launches=tuple(launches), rows=rows, plane_bytes=sizes["planes"], zero_bytes=sizes["zeros"])


def _planes(planes: dict[str, Plane]) -> tuple[dict[str, Operand], dict[str, int]]:
    """Where each lies, and the bytes of the two memories."""
    places: dict[str, Operand] = {}
    sizes = {"planes": 0, "zeros": 0}
    for name, plane in planes.items():
        place = "zeros" if plane.zero else "planes"
        places[name] = Operand(place="zeros" if plane.zero else "planes", at=sizes[place])
        sizes[place] += aligned(math.prod(plane.shape) * np.dtype(plane.dtype).itemsize)
    return places, sizes


def _arguments(spec: KernelSpec, places: dict[str, Operand]) -> dict[str, Operand]:
    """What is no plane, no logits and no result is what the rows sample with."""
    names = [argument.name for argument in spec.arguments]
    return {name: places.get(name, Operand(place="sampling", name=name)) for name in names}
