"""Which modules of a checkpoint are quantized, and how each of them is.

Either one block speaks of all modules but those that it excludes, or, with quant_algo MIXED_PRECISION, quant_cfg.json
has facts for each module that is quantized.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from inflight.convert.quantization.facts import QuantizationFacts, QuantizationRecord
from inflight.convert.quantization.scheme import WeightQuantization, algorithm_problems, weight_quantization
from inflight.convert.quantization.schemes import EMBEDDING, POSITIONS

MIXED_PRECISION = "MIXED_PRECISION"
KV_CACHE_ALGORITHMS = ("INT8", "FP8")
# What the format leaves unquantized when `exclude_modules` is null.
DEFAULT_EXCLUDED = ("*lm_head", "*router", EMBEDDING, POSITIONS, "*block_embedding")
# Both read the same rows in one kernel.
GATED_PAIR = (".mlp.fc", ".mlp.gate")


@dataclass(frozen=True)
class ModuleQuantization:
    """`facts` is the `quantization` block, `layers` the facts of modules under MIXED_PRECISION, by module path, and
    `records` what the key "inflight" tells of either.
    """

    facts: QuantizationFacts
    layers: Mapping[str, QuantizationFacts]
    records: tuple[QuantizationRecord, ...] = ()

    def of(self, module: str) -> WeightQuantization | None:
        """How the matrix of this module path ("lm_head", "transformer.layers.0.mlp.fc") is stored; None: plain. The
        facts must be supported ones.
        """
        if matches(module, (EMBEDDING, POSITIONS)):
            return None
        facts = self.layers.get(module) if self.is_mixed else self.facts
        if facts is None or (not self.is_mixed and matches(module, excluded_modules(facts))):
            return None
        return weight_quantization(facts, self._record(module))

    @property
    def is_mixed(self) -> bool:
        return self.facts.quant_algo == MIXED_PRECISION

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The quant_algo of every module that has one, once."""
        facts = self.layers.values() if self.is_mixed else [self.facts]
        return tuple(dict.fromkeys(each.quant_algo for each in facts if each.quant_algo is not None))

    @property
    def rounded_by_convert(self) -> bool:
        """True where converting the model again gives the same weights; plain ones are rounded by nothing else."""
        return self.facts.quant_algo is None or self._roundings() == {"nearest"}

    @property
    def kept_from_source(self) -> bool:
        """True where converting the model again without rounding gives the same weights: it had these levels."""
        return self.facts.quant_algo is not None and self._roundings() == {"kept"}

    def _roundings(self) -> set[str | None]:
        """How the levels of each module were chosen; None: it is not said."""
        records = [self._record(module) for module in (self.layers if self.is_mixed else ("",))]
        return {None if record is None else record.rounding for record in records}

    def problems(self) -> list[str]:
        """Everything unsupported, one phrase each; empty when all is supported."""
        cache = self.facts.kv_cache_quant_algo
        problems = list(dict.fromkeys(self._layer_problems() if self.is_mixed else self._block_problems()))
        if cache not in (None, *KV_CACHE_ALGORITHMS):
            problems.append(f"kv_cache_quant_algo {cache!r} (supported: {', '.join(KV_CACHE_ALGORITHMS)})")
        return problems

    def layers_json(self) -> dict[str, Any]:
        """The contents of quant_cfg.json."""
        said = {module: facts.model_dump(mode="json", exclude_unset=True) for module, facts in self.layers.items()}
        layers = {
            module: {key: value for key, value in each.items() if value is not None} for module, each in said.items()
        }
        cache = self.facts.kv_cache_quant_algo
        return {"quant_algo": MIXED_PRECISION, "kv_cache_quant_algo": cache, "quantized_layers": layers}

    def _block_problems(self) -> Iterator[str]:
        yield from algorithm_problems(self.facts, (MIXED_PRECISION,))

    def _layer_problems(self) -> Iterator[str]:
        if not self.layers:
            yield f"quant_algo {MIXED_PRECISION!r} without quantized_layers in quant_cfg.json"
        for facts in self.layers.values():
            yield from algorithm_problems(facts)
        yield from (f"{one} and {other} quantized in two ways" for one, other in self._torn_pairs())

    def _torn_pairs(self) -> Iterator[tuple[str, str]]:
        """Gates and their partners that are both quantized, and not alike."""
        for module, facts in self.layers.items():
            first, second = GATED_PAIR
            partner = module.removesuffix(first) + second
            other = self.layers.get(partner) if module.endswith(first) else None
            if other is not None and (other != facts or self._record(module) != self._record(partner)):
                yield module, partner

    def _record(self, module: str) -> QuantizationRecord | None:
        named = (record for record in self.records if module in record.modules)
        return next(named, next((record for record in self.records if not record.modules), None))


def first_of_pair(module: str) -> str:
    """The gate's partner, under whose name both stand where they must be quantized alike; any other module itself."""
    first, second = GATED_PAIR
    return module.removesuffix(second) + first if module.endswith(second) else module


def excluded_modules(facts: QuantizationFacts) -> tuple[str, ...]:
    """The patterns of modules that the block leaves unquantized."""
    return DEFAULT_EXCLUDED if facts.exclude_modules is None else facts.exclude_modules


def matches(module: str, patterns: Iterable[str]) -> bool:
    """True when one of the fnmatch patterns names this module."""
    return any(fnmatchcase(module, pattern) for pattern in patterns)
