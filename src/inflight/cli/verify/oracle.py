"""transformers on torch as the judge of an engine, with the engine's own weights and, where asked, its roundings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from inflight.cli.verify.roundings import (
    GREATEST,
    float8,
    int4,
    rounded,
    rounded_rows,
    rows_rounded_for,
    softmax_rounded_to,
)
from inflight.cli.verify.routing import Choice, recorded_choices
from inflight.errors import InflightError
from inflight.files.scratch import temporary_directory

if TYPE_CHECKING:
    import torch

    from inflight.convert.checkpoint.directory import Checkpoint
    from inflight.convert.families.family import Family
    from inflight.convert.quantization.dequantized.stacks import DequantizedStack
    from inflight.convert.quantization.rows import RowRounding
    from inflight.engine_format.manifest import EngineManifest, ModulePrecision

Array = npt.NDArray[Any]
Weights = Mapping[str, npt.NDArray[np.float32]]
# Modules whose outputs are queries and the row of a token.
_LATENT = ("attention.q", "attention.q_b", "attention.kv_a_layernorm", "attention.kv_a")
QUANTIZED_CACHES = ("int8", "float8_e4m3fn", "int4")


def quantization_options(manifest: EngineManifest) -> dict[str, Any]:
    """The ConvertOptions that gave the engine's weights: those of plain ones too where others quantized the model."""
    if manifest.source.kept_from_source:
        return {}
    quantized = {module: facts for module, facts in manifest.precision.items() if facts.scales is not None}
    schemes = {module: _scheme_name(facts) for module, facts in quantized.items()}
    sizes = {facts.group_size for facts in quantized.values() if facts.group_size}
    if not schemes or None in schemes.values():
        return {"dequantize": True}
    excluded = (manifest.precision.keys() | {"lm_head"}) - quantized.keys()
    options: dict[str, Any] = {"module_schemes": tuple(schemes.items()), "exclude_modules": tuple(sorted(excluded))}
    # Several sizes are those of their schemes, which --group-size would have made one.
    return options | ({"group_size": sizes.pop()} if len(sizes) == 1 else {})


def _scheme_name(facts: ModulePrecision) -> str | None:
    """The recipe that gives a module of these facts."""
    from inflight.convert.quantization.schemes import RECIPES

    stored = (facts.weights, facts.scales)
    nearest = {name: scheme for name, scheme in RECIPES.items() if scheme.method == "nearest"}
    named = [name for name, scheme in nearest.items() if (scheme.weights.dtype, scheme.weights.scale) == stored]
    rows = [name for name in named if RECIPES[name].rows.dtype == facts.activations]
    return next(iter(rows or named), None)


@dataclass(frozen=True)
class EngineNumbers:
    """The weights of a quantized engine, by Hugging Face module: levels times scales; none for a plain engine. `stacks`
    are those of experts, by all names that transformers may have for them.

    `factors` float32 [in]: what the values of rows are multiplied by first. `rows`: how they are rounded then. `plain`:
    the other products.
    """

    weights: Weights = field(default_factory=dict)
    stacks: Sequence[DequantizedStack] = ()
    factors: Weights = field(default_factory=dict)
    rows: Mapping[str, RowRounding] = field(default_factory=dict)
    plain: Sequence[str] = ()

    @classmethod
    def of(cls, checkpoint: Checkpoint, family: Family) -> EngineNumbers:
        from inflight.convert.quantization.dequantized import matrices as read
        from inflight.convert.quantization.dequantized.stacks import dequantized_stacks

        weights = dict(read.dequantized_weights(checkpoint, family))
        stacks = list(dequantized_stacks(checkpoint, family))
        factors, rows = read.input_factors(checkpoint, family), read.row_roundings(checkpoint, family)
        return cls(weights, stacks, factors, rows, read.plain_matrices(checkpoint, family))


def engine_numbers(
    model: str, family: Family, revision: str | None, manifest: EngineManifest, checkpoint: Checkpoint | None
) -> EngineNumbers:
    """From the engine's checkpoint, or made from `model` by the recipe that the manifest tells.

    Raises InflightError for an engine whose scales are not the model's, without its checkpoint.
    """
    from inflight.convert.api import convert_model
    from inflight.convert.checkpoint.directory import Checkpoint
    from inflight.convert.options import ConvertOptions

    if checkpoint is not None:
        return EngineNumbers.of(checkpoint, family)
    if not (manifest.source.rounded_by_convert or manifest.source.kept_from_source):
        raise InflightError(
            "The weights were quantized on data or by another tool: their scales cannot be made from the model again.",
            "Name the checkpoint that it was built from: --checkpoint-dir CKPT",
        )
    if all(facts.scales is None for facts in manifest.precision.values()):
        return EngineNumbers()
    options = {"dtype": manifest.model.dtype, "revision": revision, "progress": False, **quantization_options(manifest)}
    with temporary_directory("verify") as scratch:
        convert_model(model, scratch / "checkpoint", ConvertOptions.model_validate(options))
        return EngineNumbers.of(Checkpoint.open(scratch / "checkpoint"), family)


def engine_checkpoint(directory: Path, manifest: EngineManifest) -> Checkpoint:
    """The checkpoint in `directory`. Raises InflightError when the engine was built from another one."""
    from inflight.convert.checkpoint.directory import Checkpoint

    checkpoint = Checkpoint.open(directory)
    if checkpoint.sha256() != manifest.source.checkpoint_sha256:
        raise InflightError(f"The engine was not built from {directory}: their digests differ.")
    return checkpoint


def rounded_oracle(directory: Path, family: Family, manifest: EngineManifest, numbers: EngineNumbers) -> Oracle:
    """transformers with the roundings of the engine: how far they carry from the float32 result."""
    dtype, cache, weights = manifest.model.dtype, manifest.kv_cache.dtype, numbers.weights
    if weights or numbers.stacks:
        oracle = Oracle(directory, dtype, widen=True)
        oracle.take(numbers)
        read = {facts.activations for facts in manifest.precision.values()}
        stacked = {stack.name: stack.rows for stack in numbers.stacks}
        every = {**numbers.rows, **stacked}
        oracle.round_rows({module: rows for module, rows in every.items() if rows.dtype in read})
        oracle.shorten_rows(numbers.plain, dtype)
    else:
        shortest = cache if dtype == "float32" and cache not in QUANTIZED_CACHES else dtype
        oracle = Oracle(directory, shortest, widen=False)
    if cache in QUANTIZED_CACHES or weights or numbers.stacks:
        # Fused or not, each head is as many neighbouring outputs.
        cached = _LATENT if family.latent else ("attention.qkv",)
        modules = (name.partition("[")[0] for module in cached for name in family.names[module])
        oracle.round_cache(cache, manifest.model.head_size, {name.rpartition(".")[2] for name in modules})
    return oracle


class Answer(NamedTuple):
    """Logits [tokens, vocab], and what the routers of a mixture of experts chose, layer by layer."""

    logits: Array
    choices: Sequence[Choice]


class Oracle:
    """The model in `directory`. Its weights are read as `dtype`; with `widen`, the arithmetic on them is float32."""

    def __init__(self, directory: Path, dtype: str, *, widen: bool) -> None:
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        # Some models that read pictures as well are no causal language models to transformers.
        config = transformers.AutoConfig.from_pretrained(directory)
        made = getattr(transformers, (config.architectures or [""])[0], transformers.AutoModelForCausalLM)
        # Attention and experts without kernels of their own, which do not take every size.
        experts = {"experts_implementation": "eager"} if hasattr(config, "num_experts_per_tok") else {}
        # The plain attention of Falcon adds linear biases twice.
        attention = "sdpa" if getattr(config, "alibi", False) else "eager"
        model = made.from_pretrained(directory, dtype=getattr(torch, dtype), attn_implementation=attention, **experts)
        self._model = (model.float() if widen else model).eval()
        # Llama 4 with pictures runs on text alone in its decoder, which is a model with a projection of its own.
        inside = getattr(self._model, "language_model", None)
        self._decoder = self._model if inside is None or inside.get_output_embeddings() is None else inside
        self._weights_type: str | None = None
        # How rows are rounded that meet the experts of a stack, by the memory of that stack.
        self._stacks: dict[int, RowRounding] = {}

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        return dict(self._model.named_parameters())

    def _named(self, module: str) -> torch.nn.Module | None:
        """The module of this name, in the model or in a decoder that is a model of its own, with the projection."""
        for model in (self._model, self._decoder):
            found = dict(model.named_modules()).get(module)
            if found is not None:
                return found
        return None

    def take(self, numbers: EngineNumbers) -> None:
        """Put the engine's weights in place of the model's, and its factors ahead of them. A projection that was tied
        to the embedding is so no longer.
        """
        import torch

        for module, values in numbers.factors.items():
            factors, named = torch.from_numpy(values), self._named(module)
            assert named is not None, module
            named.register_forward_pre_hook(lambda _, inputs, factors=factors: (inputs[0] * factors, *inputs[1:]))
        stacks = {stack.name: stack.weight for stack in numbers.stacks if stack.name in self._parameters()}
        for name, weight in {
            **{f"{module}.weight": each for module, each in numbers.weights.items()},
            **stacks,
        }.items():
            module, _, last = name.rpartition(".")
            named = self._named(module)
            # Parts of a stack are no modules of their own.
            if named is not None:
                tensor = torch.from_numpy(np.ascontiguousarray(weight))
                setattr(named, last, torch.nn.Parameter(tensor, requires_grad=False))

    def round_rows(self, roundings: Mapping[str, RowRounding]) -> None:
        """From now on these linear modules read rows rounded in this way."""
        parameters = self._parameters()
        for module, rounding in roundings.items():
            named = self._named(module.removesuffix(".weight"))
            if named is not None:
                named.register_forward_pre_hook(
                    lambda _, inputs, rounding=rounding: (rounded_rows(inputs[0], rounding), *inputs[1:])
                )
            elif module in parameters:
                self._stacks[parameters[module].untyped_storage().data_ptr()] = rounding

    def shorten_rows(self, modules: Sequence[str], dtype: str) -> None:
        """From now on these linear modules read rows of this type."""
        import torch

        kind = getattr(torch, dtype)
        for module in modules:
            named = self._named(module)
            assert named is not None, module
            named.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(kind).to(inputs[0].dtype), *inputs[1:]))

    def round_cache(self, dtype: str, head_size: int, projections: Collection[str]) -> None:
        """From now on queries, keys (before their rotation) and values, which modules of these names yield, are rounded
        to the cache's type, integers head by head: attention multiplies in that type. So are the weights of values,
        which have 16 bits beside integers and are bfloat16 beside 8-bit floats. The factors of an FP8 cache are taken
        to be 1, which changes where a number falls between two others and not how far they are apart.
        """
        import torch

        self._weights_type = {"int8": None, "int4": None, "float8_e4m3fn": "bfloat16"}.get(dtype, dtype)

        def hook(_: torch.nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
            if dtype not in QUANTIZED_CACHES:
                return output.to(getattr(torch, dtype)).to(output.dtype)
            if dtype == "float8_e4m3fn":
                return float8(output.float(), 1.0).to(output.dtype)
            # Of latent attention a row is one head.
            whole = output.shape[-1] % head_size != 0
            heads = output[..., None, :] if whole else output.unflatten(-1, (-1, head_size))
            return (rounded(heads, GREATEST[dtype]) if dtype == "int8" else int4(heads)).flatten(-2)

        for name, module in self._model.named_modules():
            if name.rpartition(".")[2] in projections:
                module.register_forward_hook(hook)

    def answers(self, texts: Sequence[Sequence[int]]) -> list[Answer]:
        """For all tokens of each text; the texts are of one length."""
        choices: list[Choice] = []
        with recorded_choices(choices):
            logits = self._stages(texts)[-1]
        parts = [np.split(choice.scores, len(texts)) for choice in choices]
        return [
            Answer(rows, [choice._replace(scores=part[text]) for part, choice in zip(parts, choices, strict=True)])
            for text, rows in enumerate(logits)
        ]

    def stages(self, tokens: Sequence[int]) -> list[Array]:
        """Residual streams [tokens, hidden] after the embedding and every layer but the last, then the logits."""
        return [state[0] for state in self._stages([tokens])]

    def _stages(self, texts: Sequence[Sequence[int]]) -> list[Array]:
        import torch

        with torch.no_grad(), softmax_rounded_to(self._weights_type), rows_rounded_for(self._stacks):
            output = self._decoder(torch.tensor(texts), output_hidden_states=True, use_cache=False)
        return [state.float().numpy() for state in (*output.hidden_states[:-1], output.logits)]
