"""transformers on torch as the judge of an engine, with the engine's own weights and, where asked, its roundings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from inflight.cli.verify.engine import EngineRun
from inflight.errors import InflightError
from inflight.files.scratch import temporary_directory

if TYPE_CHECKING:
    import torch

    from inflight.convert.checkpoint.directory import Checkpoint
    from inflight.convert.families.family import Family
    from inflight.convert.quantization.rows import RowRounding
    from inflight.engine_format.manifest import EngineManifest, ModulePrecision

Array = npt.NDArray[Any]
Weights = Mapping[str, npt.NDArray[np.float32]]
# What the cpu target calls the greatest level of a row, by its type.
_GREATEST = {"int8": 127, "int16": 32639, "float8_e4m3fn": 448}
QUANTIZED_CACHES = ("int8", "float8_e4m3fn", "int4")


def quantization_options(manifest: EngineManifest) -> dict[str, Any]:
    """The ConvertOptions that gave the engine's weights: those of plain ones too where others quantized the model."""
    if manifest.source.kept_from_source:
        return {}
    quantized = {module: facts for module, facts in manifest.precision.items() if facts.scales is not None}
    schemes = {module: _scheme_name(facts) for module, facts in quantized.items()}
    sizes = {facts.group_size for facts in quantized.values() if facts.group_size}
    if not schemes or None in schemes.values() or len(sizes) > 1:
        return {"dequantize": True}
    excluded = (manifest.precision.keys() | {"lm_head"}) - quantized.keys()
    options: dict[str, Any] = {"module_schemes": tuple(schemes.items()), "exclude_modules": tuple(sorted(excluded))}
    return options | ({"group_size": sizes.pop()} if sizes else {})


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
    """The weights of a quantized engine, by Hugging Face module: levels times scales; none for a plain engine.

    `factors` float32 [in]: what the values of rows are multiplied by first. `rows`: how they are rounded then. `plain`:
    the other products.
    """

    weights: Weights = field(default_factory=dict)
    factors: Weights = field(default_factory=dict)
    rows: Mapping[str, RowRounding] = field(default_factory=dict)
    plain: Sequence[str] = ()

    @classmethod
    def of(cls, checkpoint: Checkpoint, family: Family) -> EngineNumbers:
        from inflight.convert.quantization import dequantized as read

        weights = dict(read.dequantized_weights(checkpoint, family))
        factors, rows = read.input_factors(checkpoint, family), read.row_roundings(checkpoint, family)
        return cls(weights, factors, rows, read.plain_matrices(checkpoint, family))


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
    if weights:
        oracle = Oracle(directory, dtype, widen=True)
        oracle.take(numbers)
        rounded = {facts.activations for facts in manifest.precision.values()}
        oracle.round_rows({module: rows for module, rows in numbers.rows.items() if rows.dtype in rounded})
        oracle.shorten_rows(numbers.plain, dtype)
    else:
        shortest = cache if dtype == "float32" and cache not in QUANTIZED_CACHES else dtype
        oracle = Oracle(directory, shortest, widen=False)
    if cache in QUANTIZED_CACHES or weights:
        # Fused or not, each head is as many neighbouring outputs.
        modules = (name.partition("[")[0] for name in family.names["attention.qkv"])
        oracle.round_cache(cache, manifest.model.head_size, {name.rpartition(".")[2] for name in modules})
    return oracle


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
        model = made.from_pretrained(directory, dtype=getattr(torch, dtype), attn_implementation="eager", **experts)
        self._model = (model.float() if widen else model).eval()
        self._weights_type: str | None = None

    def take(self, numbers: EngineNumbers) -> None:
        """Put the engine's weights in place of the model's, and its factors ahead of them. A projection that was tied
        to the embedding is so no longer.
        """
        import torch

        for module, values in numbers.factors.items():
            factors = torch.from_numpy(values)
            self._model.get_submodule(module).register_forward_pre_hook(
                lambda _, inputs, factors=factors: (inputs[0] * factors, *inputs[1:])
            )
        for module, weight in numbers.weights.items():
            tensor = torch.from_numpy(np.ascontiguousarray(weight))
            self._model.get_submodule(module).weight = torch.nn.Parameter(tensor, requires_grad=False)

    def round_rows(self, roundings: Mapping[str, RowRounding]) -> None:
        """From now on these linear modules read rows rounded in this way."""
        for module, rounding in roundings.items():
            self._model.get_submodule(module).register_forward_pre_hook(
                lambda _, inputs, rounding=rounding: (_rounded_rows(inputs[0], rounding), *inputs[1:])
            )

    def shorten_rows(self, modules: Sequence[str], dtype: str) -> None:
        """From now on these linear modules read rows of this type."""
        import torch

        kind = getattr(torch, dtype)
        for module in modules:
            self._model.get_submodule(module).register_forward_pre_hook(
                lambda _, inputs: (inputs[0].to(kind).to(inputs[0].dtype), *inputs[1:])
            )

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
                return _float8(output.float(), 1.0).to(output.dtype)
            heads = output.unflatten(-1, (-1, head_size))
            return (_rounded(heads, _GREATEST[dtype]) if dtype == "int8" else _int4(heads)).flatten(-2)

        for name, module in self._model.named_modules():
            if name.rpartition(".")[2] in projections:
                module.register_forward_hook(hook)

    def logits(self, run: EngineRun) -> Array:
        """Logits [tokens, vocab] for all tokens of the run but the last."""
        return self.stages(run)[-1]

    def stages(self, run: EngineRun) -> list[Array]:
        """Residual streams after the embedding and every layer but the last, then the logits."""
        import torch

        with torch.no_grad(), _softmax_rounded_to(self._weights_type):
            output = self._model(torch.tensor([run.token_ids[:-1]]), output_hidden_states=True, use_cache=False)
        return [state[0].float().numpy() for state in (*output.hidden_states[:-1], output.logits)]


def _softmax_rounded_to(dtype: str | None) -> AbstractContextManager[object]:
    """While it is entered, torch's softmax rounds what it returns to this type; None: as it is."""
    import torch
    from torch.overrides import TorchFunctionMode

    if dtype is None:
        return nullcontext()
    kind = getattr(torch, dtype)

    class Rounded(TorchFunctionMode):  # type: ignore[misc]  # torch is not typed here
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            return result.to(kind).to(result.dtype) if func is torch.nn.functional.softmax else result

    return Rounded()


def _rounded_rows(x: torch.Tensor, rounding: RowRounding) -> torch.Tensor:
    wide = x.float()
    if rounding.dtype != "float8_e4m3fn":
        stored = rounding.scale
        rows = _rounded(wide, _GREATEST[rounding.dtype]) if stored is None else _int8(wide, stored)
        return rows.to(x.dtype)
    return _float8(wide if rounding.limits is None else wide.clamp(*rounding.limits), rounding.scale).to(x.dtype)


def _int8(x: torch.Tensor, scale: float) -> torch.Tensor:
    """x over a stored scale, rounded and cut to what a byte holds, times the scale."""
    return (x / scale).round().clamp(-128, 127) * scale


def _float8(x: torch.Tensor, stored: float | None) -> torch.Tensor:
    """x [..., n] over its scale, cut to what E4M3 holds and rounded to it, times the scale."""
    import torch

    greatest = _GREATEST["float8_e4m3fn"]
    least = torch.finfo(torch.float32).tiny
    scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=least) / greatest if stored is None else stored
    levels = (x / scale).clamp(-greatest, greatest).to(torch.float8_e4m3fn)
    return levels.float() * scale


def _int4(heads: torch.Tensor) -> torch.Tensor:
    """Heads [..., D] rotated as the cache rotates them, in levels of four bits, rotated back."""
    import torch

    from inflight.convert.quantization.hadamard import hadamard_matrix

    turn = torch.from_numpy(hadamard_matrix(heads.shape[-1]))
    turned = heads.float() @ turn
    extreme = torch.where(-turned.amin(-1) >= turned.amax(-1), -turned.amin(-1), -turned.amax(-1))[..., None]
    scale = torch.where(extreme == 0, 1.0, extreme) / 8
    return (((turned / scale).round().clamp(-8, 7) * scale) @ turn).to(heads.dtype)


def _rounded(x: torch.Tensor, greatest: int) -> torch.Tensor:
    """x [..., n] as integers up to `greatest`, times the scale of each row."""
    import torch

    scale = x.float().abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / greatest
    return ((x.float() / scale).round() * scale).to(x.dtype)
