"""What a calibrated checkpoint keeps of its model: said at the end of a conversion, and recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from inflight.accuracy.record import AccuracyRecord, Figure, Reference, Source, Subject
from inflight.convert.calibration.held_out import HeldOutText
from inflight.convert.calibration.planned import PlannedTensors
from inflight.convert.plan import ConversionPlan
from inflight.convert.quantization.schemes import MOST_LOSS


@dataclass(frozen=True, slots=True)
class KeptAccuracy:
    """Figures of a quantized model on `text`: `count` sequences of at most `longest` tokens, `scored` of all."""

    figures: Mapping[str, Figure]
    text: Source
    count: int
    longest: int
    scored: int

    @classmethod
    def of(cls, plan: ConversionPlan, held_out: HeldOutText, text: Source) -> KeptAccuracy:
        """Runs the model of `plan`, which has one rank: weights and rows are rounded as they are while serving."""
        figures = held_out.figures(plan.spec, PlannedTensors(plan).below)
        return cls(figures, text, held_out.count, held_out.longest, held_out.tokens)

    def said(self) -> Iterator[str]:
        """In sentences; the second one is a warning."""
        ratio, kl, top1 = (self.figures[name] for name in ("ppl_ratio", "kl", "top1"))
        error = "" if ratio.error is None else f" ± {100 * ratio.error:.1f}"
        grown = f"perplexity {100 * (ratio.value - 1):+.1f} %{error}"
        same = f"same top token {100 * top1.value:.1f} %"
        yield f"Measured on {self.text.name}: {grown}, KL divergence {kl.value:.3g}, {same}."
        if ratio.value > 1 + MOST_LOSS:
            yield (
                f"Warning: that is more than {100 * MOST_LOSS:.0f} % of perplexity. Choose a scheme that loses less, "
                "or calibrate on a text like that of your users: --calib-dataset FILE"
            )

    def record(self, checkpoint_sha256: str, kv_cache_dtype: str, model: str, source_sha256: str) -> AccuracyRecord:
        """The record of a checkpoint of these weights. Keys and values were float32: the figures are those of engines
        that do not quantize them.
        """
        return AccuracyRecord(
            subject=Subject(checkpoint_sha256=checkpoint_sha256, kv_cache_dtype=kv_cache_dtype),
            reference=Reference(model=model, source_sha256=source_sha256),
            texts=(self.text,),
            window=self.longest,
            windows=self.count,
            scored_tokens=self.scored,
            figures=dict(self.figures),
        )
