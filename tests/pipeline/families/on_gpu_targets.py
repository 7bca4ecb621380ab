"""Which models the GPU targets take: each is lowered whole, or refused with the names of what is missing."""

from __future__ import annotations

from collections.abc import Callable

from inflight.build.engine import plan_engine
from inflight.build.network import build_network
from inflight.build.registry import make_recipe
from inflight.build.targets.tensorrt.lowering.table import check_operators
from inflight.build.targets.tensorrt.precision import check_attention
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.checkpoint.model_spec import ExpertsSpec, ModelSpec
from inflight.errors import BuildError

_LIMITS = {"max_batch_size": 2, "max_num_tokens": 16, "max_logit_rows": 2, "max_seq_len": 32}


def assert_lowered_or_refused(checkpoint: Checkpoint) -> None:
    """Nothing is compiled, and TensorRT itself is not asked: its table of operators is."""

    def for_tensorrt() -> None:
        check_attention(checkpoint)
        check_operators(build_network(checkpoint, _LIMITS["max_seq_len"]).graph)

    def for_cuda() -> None:
        plan_engine(checkpoint.directory, make_recipe("cuda", **_LIMITS))

    spec = checkpoint.spec
    for target, plan, lacking in (
        ("tensorrt", for_tensorrt, not_in_tensorrt(spec)),
        ("cuda", for_cuda, set[str]()),
    ):
        refusal = _refusal(plan)
        assert bool(refusal) == bool(lacking), (target, refusal, lacking)
        assert not refusal or f"The {target} target has no " in refusal


def _refusal(plan: Callable[[], None]) -> str:
    try:
        plan()
    except BuildError as error:
        return str(error)
    return ""


def not_in_tensorrt(spec: ModelSpec) -> set[str]:
    found = {"LayerNorm"} if spec.final_norm is not None and spec.final_norm.kind == "layer" else set[str]()
    found |= {"learned positions"} if spec.positions is not None else set()
    found |= {"soft caps"} if spec.logit_softcap is not None else set()
    for layer in spec.layers:
        attention, mlp = layer.attention, layer.mlp
        found |= {"experts"} if isinstance(mlp, ExpertsSpec) else set()
        found |= {"latent attention"} if attention.latent is not None else set()
        found |= {"sinks"} if attention.sinks else set()
        found |= {"biases of scores"} if attention.bias is not None else set()
        found |= {"soft caps"} if attention.softcap is not None else set()
        if attention.rope is not None and attention.latent is None and attention.rope.dim != attention.head_size:
            found.add("partial rotation")
        if not isinstance(mlp, ExpertsSpec) and mlp.activation != "silu":
            found.add(mlp.activation)
    return found
