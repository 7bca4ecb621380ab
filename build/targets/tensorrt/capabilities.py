"""Capabilities of each GPU generation, checked before anything is built. From builds of TensorRT-RTX 1.7.1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from inflight.errors import BuildError

# What TensorRT-RTX compiles for, with the cards.
RTX_TARGETS: Mapping[str, str] = {
    "75": "GeForce RTX 20",
    "80": "A100",
    "86": "GeForce RTX 30",
    "89": "GeForce RTX 40",
    "120": "GeForce RTX 50",
    "121": "DGX Spark",
}
DEFAULT_TARGETS = ("86", "89", "120")
# What TensorRT has fused attention for; a float32 network has it computed in pieces.
MAX_HEAD_SIZE = 256
MIN_HEADS_OF_RTX = 4


@dataclass(frozen=True)
class _Requirement:
    name: str
    first: int
    instead: str


_REQUIREMENTS: Mapping[ir.DataType, _Requirement] = {
    ir.DataType.BFLOAT16: _Requirement("bfloat16", 80, "convert the model with --dtype float16"),
    ir.DataType.INT4: _Requirement("int4 weights", 80, "convert the model with --quantize int8_wo"),
    ir.DataType.FLOAT8E4M3FN: _Requirement("fp8", 89, "convert the model with --quantize int8_wo or int8_w8a8"),
}


@dataclass(frozen=True)
class NetworkNeeds:
    """What a network needs of a GPU. `blocks` are (weight, inputs, block size) of weights that are scaled in blocks."""

    types: frozenset[ir.DataType]
    compute: ir.DataType
    head_size: int
    num_heads: int
    blocks: tuple[tuple[str, int, int], ...] = ()


def normalized_sms(given: Sequence[str]) -> tuple[str, ...]:
    """("sm_86", "8.9", "120") -> ("86", "89", "120"), each once; the defaults when none is given."""
    names = [name.lower().removeprefix("sm").removeprefix("_").replace(".", "") for name in given]
    return tuple(dict.fromkeys(names)) or DEFAULT_TARGETS


def check_capabilities(sms: Sequence[str], needs: NetworkNeeds, *, full: bool) -> None:
    """Raises BuildError with one sentence for each thing that cannot be, and what would work instead."""
    problems = [*_attention_problems(needs, full), *_block_problems(needs)]
    if full:
        problems += ["full TensorRT builds for the GPU that it runs on: leave --sm out"] if sms else []
    else:
        problems += _target_problems(sms)
        problems += [text for sm in sms if sm in RTX_TARGETS for text in _type_problems(sm, needs.types)]
    if problems:
        raise BuildError("TensorRT cannot build this engine:\n" + "\n".join(f"  {text}." for text in problems))


def _target_problems(sms: Iterable[str]) -> list[str]:
    known = ", ".join(f"{sm} ({cards})" for sm, cards in RTX_TARGETS.items())
    unknown = [sm for sm in sms if sm not in RTX_TARGETS]
    datacenter = [sm for sm in unknown if sm in ("90", "100", "103")]
    return [
        f"SM{sm} is a data center GPU, which TensorRT-RTX does not compile for; build with --full on that machine"
        if sm in datacenter
        else f"SM{sm} is no target of TensorRT-RTX; it has {known}"
        for sm in unknown
    ]


def _type_problems(sm: str, types: frozenset[ir.DataType]) -> list[str]:
    wanted = [_REQUIREMENTS[dtype] for dtype in sorted(types, key=int) if dtype in _REQUIREMENTS]
    return [
        f"SM{sm} ({RTX_TARGETS[sm]}) has no {need.name}, which starts with SM{need.first}; leave --sm {sm} out, or "
        f"{need.instead}"
        for need in wanted
        if int(sm) < need.first
    ]


def _attention_problems(needs: NetworkNeeds, full: bool) -> list[str]:
    problems = []
    if needs.head_size > MAX_HEAD_SIZE:
        problems.append(f"attention heads of {needs.head_size} have no fused kernel, which go to {MAX_HEAD_SIZE}")
    if needs.num_heads < MIN_HEADS_OF_RTX and not full:
        problems.append(
            f"{needs.num_heads} attention heads have no fused kernel of TensorRT-RTX, which asks for {MIN_HEADS_OF_RTX}"
        )
    fused = needs.compute != ir.DataType.FLOAT
    return [f"{text}; convert the model with --dtype float32, or build with --target cpu" for text in problems if fused]


def _block_problems(needs: NetworkNeeds) -> list[str]:
    uneven = [block for block in needs.blocks if block[1] % block[2]]
    if not uneven:
        return []
    name, inputs, size = uneven[0]
    return [
        f"{len(uneven)} int4 weights have groups that do not divide their inputs, which TensorRT asks for ({name}: "
        f"{inputs} inputs in groups of {size}); convert the model with another --group-size"
    ]
