"""Kernels of paged attention as a TensorRT plugin takes them: PTX whose parameters are the plugin's arguments."""

from __future__ import annotations

import re
from dataclasses import dataclass

from inflight.build.gpu_kernels.cache import ArtifactCache
from inflight.build.gpu_kernels.compile import CompileJob, compile_kernels
from inflight.build.gpu_kernels.spec import KernelSpec, Variant
from inflight.build.gpu_kernels.variants import attention_variant
from inflight.build.targets.tensorrt.lowering.cache_layout import SPLIT_TOKENS
from inflight.build.targets.tensorrt.plugins.kernels import COMBINE, DECODE, PREFILL, SHARED_BYTES, tune_prefill
from inflight.engine_format.gpu_artifact import Artifact
from inflight.errors import BuildError

# Triton's kernels end in two pointers to scratch memory, which none of ours uses.
_SCRATCH_POINTERS = 2


@dataclass(frozen=True)
class AttentionShape:
    """What a kernel is compiled for. `act` is fp16 or bf16, of rows and caches; a window of 0 is none."""

    num_heads: int
    num_kv_heads: int
    head_size: int
    tokens_per_block: int
    scale: float
    window: int
    act: str

    def variant(self, split_tokens: int = 0) -> Variant:
        return attention_variant(
            self.num_heads,
            self.num_kv_heads,
            self.head_size,
            kv=self.act,
            act=self.act,
            tokens_per_block=self.tokens_per_block,
            scale=self.scale,
            window=self.window,
            split_tokens=split_tokens,
        )


def decode_code(shape: AttentionShape, sm: int) -> Artifact:
    """Raises BuildError when triton is missing, knows no such GPU, or does not compile the kernel for it."""
    return _compiled(DECODE, shape.variant(SPLIT_TOKENS), sm)


def combine_code(num_heads: int, head_size: int, window: int, act: str, sm: int) -> Artifact:
    """As decode_code, of the kernel that adds up what it leaves."""
    constants = {"num_heads": num_heads, "head_size": head_size, "window": window, "split_tokens": SPLIT_TOKENS}
    return _compiled(COMBINE, Variant({"act": act}, constants), sm)


def prefill_code(shape: AttentionShape, sm: int) -> Artifact:
    return _compiled(PREFILL, shape.variant(), sm)


def prompt_tile(num_heads: int, num_kv_heads: int, head_size: int, sm: int) -> int:
    """The most tokens of a prompt that one program of `prefill_code` takes."""
    tuning = tune_prefill(sm, attention_variant(num_heads, num_kv_heads, head_size))
    return int(tuning.constants["block_m"]) // (num_heads // num_kv_heads)


def plugin_ptx(artifact: Artifact) -> str:
    """The kernel's PTX without the parameters that TensorRT does not pass: Triton's pointers to scratch memory.

    Raises BuildError when the kernel uses them, or has other parameters than its arguments and those.
    """
    entry = re.search(rf"(\.entry {re.escape(artifact.entry)}\()(.*?)(\n\))", artifact.ptx, re.DOTALL)
    parameters = [] if entry is None else entry[2].split(",")
    dropped = [declared.split()[-1] for declared in parameters[len(artifact.arguments) :]]
    used = [name for name in dropped if len(re.findall(rf"\b{re.escape(name)}\b", artifact.ptx)) > 1]
    if entry is None or len(dropped) != _SCRATCH_POINTERS or used:
        raise BuildError(
            f"{artifact.kernel} has {len(parameters)} parameters and {len(artifact.arguments)} arguments; a plugin's "
            f"kernel has Triton's {_SCRATCH_POINTERS} beside them, and does not use them.",
            'Use the triton of the cuda extra: pip install "inflight-llm[cuda-compile]"',
        )
    kept = ",".join(parameters[: len(artifact.arguments)])
    return artifact.ptx[: entry.start(2)] + kept + artifact.ptx[entry.end(2) :]


def _compiled(spec: KernelSpec, variant: Variant, sm: int) -> Artifact:
    (artifact,) = compile_kernels([CompileJob(spec, variant, sm)], workers=1, cache=ArtifactCache())
    if artifact.shared_bytes > SHARED_BYTES:
        raise BuildError(
            f"{artifact.kernel} for sm_{sm} asks for {artifact.shared_bytes} bytes of shared memory, and a plugin has "
            f"{SHARED_BYTES}.",
            "Choose smaller blocks or fewer stages in its tuning.",
        )
    return artifact
