"""What a quantized model keeps of a text that it was not calibrated on, run layer by layer in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from inflight.accuracy.figures import TextFigures, WindowSums
from inflight.accuracy.record import Figure
from inflight.convert.calibration.layers import LAYER, embedded
from inflight.convert.calibration.statistics import Floats, LayerWeights
from inflight.convert.calibration.text import Tokens
from inflight.convert.checkpoint.model_spec import ModelSpec
from inflight.convert.checkpoint.reference.decoder import TensorReader, decoder_layer, final_logits

# The weights below a prefix: those of a layer, or, with an empty one, the last norm and the vocabulary projection.
Weights = Callable[[str], LayerWeights]


class HeldOutText:
    """Scores models against the plain one. Of each sequence the first half is context, the second half is scored.

    In memory are the weights of a layer, the residual streams, and the logits of one sequence; sums, keys and values
    are float32.
    """

    def __init__(self, tensors: TensorReader, spec: ModelSpec, sequences: Sequence[Tokens]) -> None:
        """`tensors` and `spec` are the plain model's; sequences of one token have nothing to score."""
        self._tensors, self._spec = tensors, spec
        self._sequences = [ids for ids in sequences if len(ids) > 1]
        self._plain = self._streams(spec, self._plain_weights)

    @property
    def tokens(self) -> int:
        """How many are scored."""
        return sum(len(ids) - _first_scored(ids) for ids in self._sequences)

    @property
    def count(self) -> int:
        """How many sequences there are."""
        return len(self._sequences)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(map(len, self._sequences), default=0)

    def figures(self, spec: ModelSpec, weights: Weights) -> dict[str, Figure]:
        """As `inflight eval` names them; errors are over sequences."""
        found, last, plain_last = TextFigures(compared=True), weights(""), self._plain_weights("")
        for ids, stream, plain in zip(self._sequences, self._streams(spec, weights), self._plain, strict=True):
            window = WindowSums()
            logits, expected = final_logits(last, spec, stream), final_logits(plain_last, self._spec, plain)
            window.add(ids[_first_scored(ids) :].tolist(), logits, expected)
            found.windows.append(window)
        return found.figures()

    def _plain_weights(self, prefix: str) -> LayerWeights:
        return LayerWeights(self._tensors, prefix)

    def _streams(self, spec: ModelSpec, weights: Weights) -> list[Floats]:
        """The residual streams [scored, hidden] behind all layers from which the scored tokens are predicted."""
        streams = embedded(self._tensors, spec, self._sequences)
        for index, layer in enumerate(spec.layers):
            below = weights(LAYER.format(index))
            streams = [decoder_layer(below, layer, stream) for stream in streams]
        return [stream[_first_scored(ids) - 1 : -1] for ids, stream in zip(self._sequences, streams, strict=True)]


def _first_scored(ids: Tokens) -> int:
    return max(1, len(ids) // 2)
