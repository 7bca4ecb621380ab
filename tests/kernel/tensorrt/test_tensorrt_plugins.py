"""The plugins of paged attention as full TensorRT would use them: described, compiled, and launched by argument order.

The kernels are compiled by Triton and ptxas, and run under Triton's interpreter with the grid, the integers and the
order of arguments that the plugins' own functions give; `tensorrt.plugin` itself is stood in for.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from msgspec.structs import replace

pytest.importorskip("tensorrt_rtx", reason="pip install 'inflight-llm[tensorrt-rtx]'")
pytest.importorskip("triton", reason="pip install 'inflight-llm[cuda-compile]'")

import tensorrt_rtx as trt

from inflight.build.gpu_kernels.architectures import SMS
from inflight.build.targets.tensorrt.plugins import kernels as plugin_kernels
from inflight.build.targets.tensorrt.plugins.code import (
    AttentionShape,
    combine_code,
    decode_code,
    plugin_ptx,
    prefill_code,
    prompt_tile,
)
from inflight.engine_format.gpu_artifact import Artifact, ArtifactArgument
from inflight.errors import BuildError
from inflight.runtime.executors.null.executor import null_manifest
from inflight.runtime.executors.tensorrt.blocks import BlockRuns
from inflight.runtime.scheduler.step import ScheduledSequence, StepBatch
from tests.kernel.gpu.support.cuda_launch import tensor_of
from tests.network.tensorrt.plugin_api import Request, ShapeExpr, TensorDesc, registered_plugins
from tests.oracles.gpu.paged_attention import paged_attention

pytestmark = pytest.mark.kernel

Array = npt.NDArray[Any]
HEADS, KV_HEADS, SIZE, TOKENS_PER_BLOCK = 6, 2, 64, 32
MAX_SEQ_LEN = 400
SHAPES = [
    AttentionShape(32, 8, 128, 64, 128**-0.5, 0, "bf16"),
    AttentionShape(14, 2, 64, 32, 0.125, 0, "fp16"),
    AttentionShape(8, 4, 256, 64, 256**-0.5, 4096, "bf16"),
    AttentionShape(32, 32, 80, 16, 80**-0.5, 0, "bf16"),
]


@pytest.fixture
def ops() -> Iterator[Any]:
    with registered_plugins() as plugins:
        yield plugins


def random_step(rng: np.random.Generator, tile: int) -> tuple[dict[str, Array], int]:
    """The inputs of a run of prompt chunks and single tokens over scattered blocks, and the size of the pool."""
    width = -(-MAX_SEQ_LEN // TOKENS_PER_BLOCK)
    pool = rng.permutation(5 * width)
    sequences = []
    for place, count in enumerate([1, int(rng.integers(2, 90)), 1, int(rng.integers(2, 40))]):
        start = int(rng.integers(0, MAX_SEQ_LEN - count))
        table = pool[place * width :][: -(-(start + count) // TOKENS_PER_BLOCK)].tolist()
        sequences.append(ScheduledSequence(place, [0] * count, start, table))
    manifest = null_manifest()
    cache = replace(manifest.kv_cache, tokens_per_block=TOKENS_PER_BLOCK)
    limits = replace(manifest.limits, max_seq_len=MAX_SEQ_LEN)
    manifest = replace(manifest, kv_cache=cache, limits=limits)
    order = rng.permutation(len(sequences))
    (run,) = BlockRuns(manifest, len(pool), tile)(StepBatch([sequences[index] for index in order]))
    return {name: np.array(array) for name, array in run.arrays.items()}, len(pool)


def launch(request: Request, artifact: Artifact, inputs: Sequence[Array]) -> list[Array]:
    """What a plugin writes: its kernel interpreted, called with its inputs, its integers and its outputs, in order."""
    described = [TensorDesc([ShapeExpr(size) for size in array.shape], _type(array)) for array in inputs]
    entry, code, params, scalars = request.implementation(described)
    assert (entry, code) == (artifact.entry, plugin_ptx(artifact))
    assert params.shared_mem.value == artifact.shared_bytes and params.block_x.value == artifact.threads
    outputs = [
        np.full([size.constant_value() for size in output.shape_expr], np.nan, _NUMPY[output.dtype.name])
        for output in request.outputs(described)
    ]
    arguments = [*map(tensor_of, inputs), *(expr.value for expr in scalars.exprs), *map(tensor_of, outputs)]
    assert len(arguments) == len(artifact.arguments)
    with np.errstate(all="ignore"):
        getattr(plugin_kernels, artifact.kernel)[params.grid](*arguments, **artifact.constants)
    return outputs


_NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32}


def _type(array: Array) -> Any:
    names = {kind: name for name, kind in _NUMPY.items()}
    return trt.DataType.__members__[names[array.dtype.type]]


def _request(plugin: Any, tensors: int, **attributes: Any) -> Request:
    request = plugin(*[None] * tensors, **attributes)
    assert isinstance(request, Request)
    return request


@pytest.mark.parametrize("window", [0, 70])
def test_kernels_in_the_order_of_a_plugins_arguments_are_attention(
    window: int, rng: np.random.Generator, ops: Any
) -> None:
    arrays, num_blocks = random_step(rng, prompt_tile(HEADS, KV_HEADS, SIZE, 90))
    rows, shape = len(arrays["positions"]), (num_blocks, KV_HEADS, TOKENS_PER_BLOCK, SIZE)
    q = rng.standard_normal((rows, HEADS, SIZE)).astype(np.float16)
    caches = [rng.standard_normal(shape).astype(np.float16) for _ in range(2)]
    kind = AttentionShape(HEADS, KV_HEADS, SIZE, TOKENS_PER_BLOCK, SIZE**-0.5, window, "fp16")
    rule = {"scale": kind.scale, "window": window, "sm": 90}
    decodes = [arrays[name] for name in ("decode_positions", "decode_sequences", "block_tables")]
    prompts = [arrays[name] for name in ("positions", "sequence_of_row", "block_tables", "tile_begins", "tile_ends")]
    chosen = np.ascontiguousarray(q[arrays["decode_rows"]])

    parts = launch(_request(ops.paged_decode, 6, **rule), decode_code(kind, 90), [chosen, *caches, *decodes])
    combine = _request(ops.combine_splits, 5, window=window, sm=90)
    (decoded,) = launch(combine, combine_code(HEADS, SIZE, window, "fp16", 90), [chosen, *parts, decodes[0]])
    (prefilled,) = launch(_request(ops.paged_prefill, 8, **rule), prefill_code(kind, 90), [q, *caches, *prompts])
    result = np.concatenate([decoded, prefilled])[arrays["attention_rows"]]

    keys, values = (cache.astype(np.float64) for cache in caches)
    flat = q.reshape(rows, HEADS * SIZE)
    exact = paged_attention(flat, keys, values, *prompts[:3], scale=kind.scale, soft_cap=0.0, window=window)
    np.testing.assert_allclose(result.reshape(rows, -1), exact, rtol=1e-2, atol=5e-3)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.num_heads}x{shape.head_size}")
def test_every_kernel_compiles_for_a_plugin_without_spills_and_within_its_shared_memory(
    shape: AttentionShape, rng: np.random.Generator, tmp_path: Path
) -> None:
    """On one generation, chosen at random; ptxas takes the code that TensorRT is given."""
    check_generation(shape, int(rng.choice(SMS)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("sm", SMS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.num_heads}x{shape.head_size}")
def test_every_kernel_compiles_for_every_generation(shape: AttentionShape, sm: int, tmp_path: Path) -> None:
    check_generation(shape, sm, tmp_path)


def check_generation(shape: AttentionShape, sm: int, directory: Path) -> None:
    combine = combine_code(shape.num_heads, shape.head_size, shape.window, shape.act, sm)
    for artifact in (decode_code(shape, sm), combine, prefill_code(shape, sm)):
        assert artifact.spill_store_bytes == artifact.spill_load_bytes == 0
        code = plugin_ptx(artifact)
        entry = code[code.index(f".entry {artifact.entry}(") :]
        declared = [line.split() for line in entry[: entry.index(")")].splitlines() if ".param" in line]
        kinds = ["i32" if argument.type == "i32" else "pointer" for argument in artifact.arguments]
        assert ["i32" if words[1] == ".u32" else "pointer" for words in declared] == kinds
        assert_assembles(code, sm, directory)


def assert_assembles(code: str, sm: int, directory: Path) -> None:
    from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability

    source = directory / "kernel.ptx"
    source.write_text(code)
    target = f"--gpu-name={sm_arch_from_capability(sm)}"
    command = [get_ptxas(sm).path, target, str(source), "-o", str(directory / "kernel.cubin")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_code_that_uses_scratch_memory_or_has_other_parameters_is_refused() -> None:
    body = "\n)\n{\n\tld.param.b64 %rd1, [k_param_0];\n\tret;\n}\n"
    parameters = [f"\n\t.param .u64 .ptr .global .align 1 k_param_{index}" for index in range(3)]
    argument = ArtifactArgument(name="x", type="*fp32", alignment=16)

    def artifact(ptx: str) -> Any:
        return SimpleNamespace(entry="k", kernel="k", arguments=(argument,), ptx=ptx)

    whole = f".entry k({','.join(parameters)}{body}"
    assert plugin_ptx(artifact(whole)) == f".entry k({parameters[0]}{body}"
    for ptx in (whole.replace("[k_param_0]", "[k_param_2]"), whole.replace(parameters[2], parameters[2] * 2), "ret;"):
        with pytest.raises(BuildError, match="does not use them"):
            plugin_ptx(artifact(ptx.replace(parameters[2] * 2, f"{parameters[2]},{parameters[2]}9")))
