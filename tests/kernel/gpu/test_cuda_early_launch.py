"""Kernels that begin before the launch before them has ended: what they do until then, and what they may not."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from inflight.build.gpu_kernels.cache import ArtifactCache
from inflight.build.gpu_kernels.compile import CompileJob, compile_kernels
from inflight.build.gpu_kernels.early_launch import LAUNCH, MARKER, WAIT, with_waiting
from inflight.build.gpu_kernels.spec import Variant
from inflight.errors import BuildError
from tests.kernel.gpu.support.cuda_launch import SPECS, interpret
from tests.kernel.gpu.support.early_launch import noted_memory, prefetches, touched_before_the_wait

from inflight.build.gpu_kernels.kernels.gated_linear import gated_variant  # isort: skip
from inflight.build.gpu_kernels.kernels.head_linear import head_variant  # isort: skip
from inflight.build.gpu_kernels.kernels.linear import linear_variant  # isort: skip
from inflight.build.gpu_kernels.kernels.quantized_linear import quantized_variant  # isort: skip
from inflight.build.gpu_kernels.kernels.quantized_tiles import GROUP, OUTPUT  # isort: skip

pytestmark = pytest.mark.kernel

Array = npt.NDArray[Any]
PRODUCTS = ("linear", "gated_linear", "quantized_linear", "head_linear")
HEAD = ".visible .entry kernel(\n\t.param .u64 kernel_param_0\n)\n{\n"
ROWS, LINES, INPUTS = 5, 70, 200


def kernel(*lines: str) -> str:
    return HEAD + "".join(f"\t{line}\n" for line in lines) + "\tret;\n}\n"


@pytest.mark.parametrize("function", PRODUCTS)
def test_products_prefetch_before_they_wait_and_touch_nothing_else(function: str) -> None:
    spec = SPECS[function]
    for artifact in compile_kernels(
        [CompileJob(spec, spec.variants[0], sm) for sm in ((90, 100) if function == "linear" else (90,))],
        cache=ArtifactCache(),
    ):
        assert not touched_before_the_wait(artifact.ptx)
        early, all_of_them = prefetches(artifact.ptx)
        assert early == all_of_them > 0, "a prefetch behind the wait comes with the loads"


@pytest.mark.slow
@pytest.mark.parametrize("sm", [90, 100, 120])
@pytest.mark.parametrize("function", PRODUCTS)
def test_every_variant_of_products_prefetches_before_it_waits(function: str, sm: int) -> None:
    spec = SPECS[function]
    for artifact in compile_kernels([CompileJob(spec, each, sm) for each in spec.variants], cache=ArtifactCache()):
        assert not touched_before_the_wait(artifact.ptx)
        assert prefetches(artifact.ptx)[0] > 0


def arrays_of(rng: np.random.Generator, function: str) -> tuple[Variant, dict[str, Array | int], tuple[str, ...]]:
    """A launch, and the names of its weights."""
    named: dict[str, Any] = {"rows": ROWS, "partial": np.zeros(10**5, np.float32), "arrived": np.zeros(99, np.int32)}
    named |= {name: np.ones(LINES, np.float32) for name in ("bias", "gate_bias", "up_bias", "weight_scale", "unit")}
    named |= {name: rng.random((ROWS, LINES)).astype(np.float32) for name in ("residual", "y")}
    named |= {"x_scale": np.ones(ROWS, np.float32), "codebook": np.ones(16, np.float32), "zero": named["unit"]}
    weights = rng.random((LINES, INPUTS)).astype(np.float32)
    named |= {"x": rng.random((ROWS, INPUTS)).astype(np.float32), "weight": weights, "gate": weights, "up": weights * 2}
    if function == "linear":
        return linear_variant(LINES, INPUTS, tile=16, x="fp32", bias="fp32"), named, ("weight",)
    if function == "gated_linear":
        variant = gated_variant(LINES, INPUTS, "silu", tile=16, x="fp32", bias="fp32", y="fp32")
        return variant, named, ("gate", "up")
    if function == "head_linear":
        return head_variant(1, LINES, INPUTS, INPUTS, few=True, x="fp32"), named, ("weight",)
    int4 = function == "int4"
    named["weight"] = rng.integers(-8, 8, (LINES, INPUTS // 2 if int4 else INPUTS)).astype(np.int8)
    shares: dict[str, Any] = {"shares": GROUP, "group_size": 32} if int4 else {"shares": OUTPUT}
    named["weight_scale"] = np.ones((LINES, 7 if int4 else 1), np.float32)
    kind = "int4" if int4 else "int8"
    return quantized_variant(LINES, INPUTS, kind, "plain", tile=16, x="fp32", **shares), named, ("weight",)


@pytest.mark.parametrize("function", [*PRODUCTS, "int4"])
def test_what_is_prefetched_lies_in_the_weights_and_nothing_is_touched_before_it(
    rng: np.random.Generator, function: str
) -> None:
    variant, named, weights = arrays_of(rng, function)
    with noted_memory() as noted:
        interpret("quantized_linear" if function == "int4" else function, variant, named, {"rows": ROWS})
    programs: list[list[tuple[str, Array]]] = [[]]
    for what, addresses in noted:
        if what == "prefetch" and any(each == "awaited" for each, _ in programs[-1]):
            programs.append([])
        programs[-1].append((what, addresses))
    assert len(programs) > 1, "several tiles of weights"
    for program in programs:
        whats = [what for what, _ in program]
        assert whats == [*("prefetch" for _ in weights), "awaited", *("touch" for _ in whats[len(weights) + 1 :])]
        for name, (_, addresses) in zip(weights, program, strict=False):
            array = named[name]
            assert isinstance(array, np.ndarray)
            first = array.ctypes.data
            assert ((first <= addresses) & (addresses < first + array.nbytes)).all(), f"{name}: outside of the weights"


def test_a_kernel_without_a_marker_waits_first_of_all() -> None:
    lines = kernel("ld.param.b64 \t%rd1, [kernel_param_0];", "ld.global.b32 \t%r1, [%rd1];")
    assert with_waiting(lines) == lines.replace(HEAD, f"{HEAD}\t{LAUNCH}\n\t{WAIT}\n")


def test_the_wait_comes_to_the_marker_and_the_next_launch_may_begin_at_once() -> None:
    front = ("ld.param.b64 \t%rd1, [kernel_param_0];", "prefetch.global.L2 [%rd1]; mov.b32 %r2, 0;")
    changed = with_waiting(kernel(*front, f"{MARKER}, %r1", "ld.global.b32 \t%r1, [%rd1];"))
    places = [changed.index(each) for each in (LAUNCH, "prefetch", WAIT, "ld.global")]
    assert places == sorted(places)


def test_on_blackwell_the_next_launch_begins_when_tensor_memory_is_allocated() -> None:
    """Its blocks allocate before they wait, and may not take what a block that they wait for still needs."""
    allocation = (
        "@%p1 tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], 32;",
        "bar.sync \t0;",
        "@%p1 tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;",
    )
    for behind in ((), (f"{MARKER}, %r1",)):
        changed = with_waiting(kernel(*allocation, *behind, "ld.global.b32 \t%r1, [%rd1];"))
        assert changed.index("relinquish") < changed.index(LAUNCH) < changed.index("ld.global")
        assert (changed.index(WAIT) < changed.index("tcgen05.alloc")) == (not behind)


@pytest.mark.parametrize(
    ("front", "named"),
    [
        (("ld.global.b32 \t%r1, [%rd1];",), "ld.global.b32"),
        (("@%p1 ld.global.v4.b32 \t{%r1, %r2, %r3, %r4}, [%rd1];",), "ld.global.v4.b32"),
        (("st.global.b32 \t[%rd1], %r1;",), "st.global.b32"),
        (("cp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, %r2;",), "cp.async.cg.shared.global"),
        (("@%p2 atom.global.gpu.acq_rel.add.u32 \t%r1, [%rd1], 1;",), "atom.global"),
        (("mov.b32 \t%r1, 0; ld.global.b32 \t%r2, [%rd1];",), "ld.global.b32"),
        (("ld.b32 \t%r2, [%rd1];",), "ld.b32"),
        (("red.global.add.u32 \t[%rd1], 1;",), "red.global"),
        (("@%p1 ret;",), "ret"),
        (("@%p1 bra \t$L__BB0_2;",), r"\$L__BB0_2"),
    ],
    ids=lambda given: str(given),
)
def test_what_may_not_be_in_front_of_the_wait_is_refused_by_name(front: tuple[str, ...], named: str) -> None:
    with pytest.raises(BuildError, match=named):
        with_waiting(kernel(*front, f"{MARKER}, %r1", "$L__BB0_2:"))


def test_a_loop_in_front_of_the_wait_is_none_of_its_exits() -> None:
    """A branch to a label in front of the wait is taken; two waits are not."""
    loop = ("$L__BB0_1:", "prefetch.global.L2 [%rd1];", "@%p1 bra \t$L__BB0_1;", f"{MARKER}, %r1")
    assert WAIT in with_waiting(kernel(*loop))
    with pytest.raises(BuildError, match="several places"):
        with_waiting(kernel(*loop, f"{MARKER}, %r1"))
