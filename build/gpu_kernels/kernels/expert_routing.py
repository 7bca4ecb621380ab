"""Which experts a row meets, with which weights (docs/formats/mixtures.md), and the rows of each side by side."""

from __future__ import annotations

import triton
import triton.language as tl

from inflight.build.gpu_kernels.kernels.weight_prefetch import prefetch_expert
from inflight.build.gpu_kernels.spec import Argument, Constant, Extent, KernelSpec, Tuning, Variant

ROUTINGS = {
    "softmax": 0,
    "renormalized": 1,
    "sparse_mixer": 2,
    "sigmoid_inputs": 3,
    "biased_softmax": 4,
    "biased_sigmoid": 5,
}
_RENORMALIZED = tl.constexpr(1)
_SPARSE_MIXER = tl.constexpr(2)
_SIGMOID_INPUTS = tl.constexpr(3)
_BIASED = tl.constexpr(4)
_BIASED_SIGMOID = tl.constexpr(5)
_NONE = tl.constexpr(1 << 30)


@triton.jit
def route_experts(
    logits,
    choice_bias,
    chosen,
    weights,
    experts: tl.constexpr,
    top_k: tl.constexpr,
    routing: tl.constexpr,
    epsilon: tl.constexpr,
    scale: tl.constexpr,
    groups: tl.constexpr,
    top_groups: tl.constexpr,
    padded_groups: tl.constexpr,
    padded_members: tl.constexpr,
    padded_top_k: tl.constexpr,
):
    """One program per row: its experts chosen int32 [rows, top_k], the greatest score first and of equal ones the lower
    number, and their weights float32 [rows, top_k].

    logits float32 [rows, experts], none of them NaN; choice_bias float32 [experts] is read where `routing` is biased.
    `experts` are `groups` of neighbours, of which `top_groups` can be chosen.
    """
    row = tl.program_id(0).to(tl.int64)
    members: tl.constexpr = experts // groups
    group = tl.arange(0, padded_groups)
    member = tl.arange(0, padded_members)
    there = (group < groups)[:, None] & (member < members)[None, :]
    number = group[:, None] * members + member[None, :]
    values = tl.load(logits + row * experts + number, mask=there, other=float("-inf"))
    greatest = tl.max(tl.max(values, axis=1), axis=0)
    shares = tl.exp(values - greatest)
    total = tl.sum(tl.sum(shares, axis=1), axis=0)
    own = shares
    score = values
    if routing >= _BIASED:
        own = tl.div_rn(shares, total)
        if routing == _BIASED_SIGMOID:
            own = _logistic(values)
        score = tl.where(there, own + tl.load(choice_bias + number, mask=there, other=0.0), float("-inf"))
    if routing == _SIGMOID_INPUTS:
        own = _logistic(values)
    if top_groups < groups:
        score = tl.where(_open(score, group, member, routing, members, top_groups)[:, None], score, float("-inf"))

    slot = tl.arange(0, padded_top_k)
    found = tl.zeros([padded_top_k], tl.int32)
    weight = tl.zeros([padded_top_k], tl.float32)
    for place in range(top_k):
        best = tl.max(tl.max(score, axis=1), axis=0)
        expert = tl.min(tl.min(tl.where(score == best, number, _NONE), axis=1), axis=0)
        if routing == _SPARSE_MIXER:
            # `score` has no expert that was taken before; magnitudes are those of all.
            near = (best - values) <= 2.0 * epsilon * tl.maximum(tl.abs(values), best)
            near = near & (score > float("-inf"))
            share = tl.div_rn(1.0, tl.sum(tl.sum(tl.where(near, tl.exp(score - best), 0.0), axis=1), axis=0))
        else:
            share = tl.sum(tl.sum(tl.where(number == expert, own, 0.0), axis=1), axis=0)
        found = tl.where(slot == place, expert, found)
        weight = tl.where(slot == place, share, weight)
        score = tl.where(number == expert, float("-inf"), score)
    if routing >= _BIASED:
        weight = tl.div_rn(weight * scale, tl.maximum(tl.sum(weight, axis=0), epsilon))
    elif routing == _RENORMALIZED:
        weight = tl.div_rn(weight, tl.sum(weight, axis=0)) * scale
    elif routing != _SPARSE_MIXER and routing != _SIGMOID_INPUTS:
        weight = tl.div_rn(weight, total) * scale
    at = row * top_k + slot
    tl.store(chosen + at, found, mask=slot < top_k)
    tl.store(weights + at, weight, mask=slot < top_k)


@triton.jit
def _logistic(x):
    return tl.div_rn(1.0, 1.0 + tl.exp(-x))


@triton.jit
def _open(score, group, member, routing: tl.constexpr, members: tl.constexpr, top_groups: tl.constexpr):
    """Which groups can be chosen, [padded_groups]: those of the greatest score, or of two where a bias counts."""
    sums = tl.max(score, axis=1)
    if routing >= _BIASED and members > 1:
        first = tl.min(tl.where(score == sums[:, None], member[None, :], _NONE), axis=1)
        sums += tl.max(tl.where(member[None, :] == first[:, None], float("-inf"), score), axis=1)
    opened = group < 0
    for _ in range(top_groups):
        best = tl.min(tl.where(sums == tl.max(sums, axis=0), group, _NONE), axis=0)
        opened = opened | (group == best)
        sums = tl.where(group == best, float("-inf"), sums)
    return opened


@triton.jit
def sort_pairs(
    chosen,
    order,
    begins,
    ends,
    next_weight,
    rows,
    experts: tl.constexpr,
    top_k: tl.constexpr,
    next_lines: tl.constexpr,
    next_row_size: tl.constexpr,
    block: tl.constexpr,
):
    """One program per expert: its pairs lie in `order` from begins[expert] to ends[expert].

    chosen int32 [rows, top_k]; a pair's number is row * top_k + choice. order int32 [rows * top_k]; begins, ends int32
    [experts]. Pairs of an expert are in the order of their numbers, and experts in that of theirs. The beginnings of
    the expert's lines in next_weight [experts, next_lines, next_row_size], if there are any, are asked for.
    """
    expert = tl.program_id(0)
    pairs = rows * top_k
    begin, has = 0, 0
    for start in range(0, pairs, block):
        at = start + tl.arange(0, block)
        others = tl.load(chosen + at, mask=at < pairs, other=_NONE)
        begin += tl.sum((others < expert).to(tl.int32), axis=0)
        has += tl.sum((others == expert).to(tl.int32), axis=0)
    if next_lines > 0 and has > 0:
        prefetch_expert(next_weight, expert, 0, 1, pairs, next_lines, next_row_size)
    place = begin
    for start in range(0, pairs, block):
        at = start + tl.arange(0, block)
        own = (tl.load(chosen + at, mask=at < pairs, other=_NONE) == expert).to(tl.int32)
        tl.store(order + place + tl.cumsum(own, axis=0) - 1, at, mask=own > 0)
        place += tl.sum(own, axis=0)
    tl.store(begins + expert, begin)
    tl.store(ends + expert, place)


def tune_routing(sm: int, variant: Variant) -> Tuning:
    constants = variant.constants
    groups, top_k = int(constants["groups"]), int(constants["top_k"])
    padded: dict[str, Constant] = {
        "padded_groups": triton.next_power_of_2(groups),
        "padded_members": triton.next_power_of_2(int(constants["experts"]) // groups),
        "padded_top_k": triton.next_power_of_2(top_k),
    }
    return Tuning(num_warps=1, constants=padded)


def tune_sorting(sm: int, variant: Variant) -> Tuning:
    return Tuning(num_warps=4, constants={"block": 1024})


def routing_variant(
    experts: int,
    top_k: int,
    routing: str,
    *,
    epsilon: float = 0.0,
    scale: float = 1.0,
    groups: int = 1,
    top_groups: int = 1,
) -> Variant:
    """`routing` is one of ROUTINGS; the numbers are the attributes of `Experts`."""
    constants: dict[str, Constant] = {"experts": experts, "top_k": top_k, "routing": ROUTINGS[routing]}
    constants |= {"epsilon": epsilon, "scale": scale, "groups": groups, "top_groups": top_groups}
    return Variant({}, constants)


def sorting_variant(experts: int, top_k: int, *, following: tuple[int, int] = (0, 0), weight: str = "i8") -> Variant:
    """`following`: the lines of an expert in what is multiplied next, and the elements of a line, of type `weight`."""
    lines, row_size = following
    constants = {"top_k": top_k, "experts": experts, "next_lines": lines, "next_row_size": row_size}
    return Variant({"weight": weight}, constants)


SPECS = (
    KernelSpec(
        module=__name__,
        function="route_experts",
        arguments=(
            Argument("logits", "*fp32"),
            Argument("choice_bias", "*fp32"),
            Argument("chosen", "*i32"),
            Argument("weights", "*fp32"),
        ),
        grid=((Extent("rows"),),),
        tune=tune_routing,
        variants=(
            routing_variant(128, 8, "renormalized"),
            routing_variant(16, 2, "sparse_mixer", epsilon=0.01),
            routing_variant(160, 6, "softmax", scale=16.0, groups=8, top_groups=3),
            routing_variant(256, 8, "biased_sigmoid", epsilon=1e-20, scale=2.5, groups=8, top_groups=4),
        ),
        decode_path=True,
    ),
    KernelSpec(
        module=__name__,
        function="sort_pairs",
        arguments=(
            Argument("chosen", "*i32"),
            Argument("order", "*i32"),
            Argument("begins", "*i32"),
            Argument("ends", "*i32"),
            Argument("next_weight", "*{weight}"),
            Argument("rows", "i32"),
        ),
        grid=((Extent("experts"),),),
        tune=tune_sorting,
        variants=(
            sorting_variant(128, 8, following=(1536, 2048), weight="bf16"),
            sorting_variant(32, 4, following=(5760, 1440)),
        ),
        decode_path=True,
    ),
)
