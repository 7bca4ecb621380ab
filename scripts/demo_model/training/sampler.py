"""Which topics the next conversations are about: what the model still gets wrong comes more often."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo_model.data.invented import InventedNames
from demo_model.data.topics import Topic

KIND_WEIGHTS = {"describe": 1.0, "signature": 0.5, "reverse": 0.5, "module": 0.4, "general": 6.0}
INVENTED_SHARE = 0.08
# Weight of a topic by the negative log likelihood of its answer, in nats: KNOWN and less is as good as known, but must
# come again now and then to stay so; UNKNOWN and more is not known at all.
KNOWN, UNKNOWN = 0.2, 2.0
MEMORY = 0.5


class TopicSampler:
    """Draws topics in proportion to the weight of their kind and to how badly they were answered lately."""

    def __init__(self, topics: Sequence[Topic], invented: InventedNames, seed: int) -> None:
        self.topics = list(topics)
        self._invented = invented
        self._kind_weights = np.array([KIND_WEIGHTS[topic.kind] for topic in topics])
        self._losses = np.full(len(topics), UNKNOWN)
        self._generator = np.random.default_rng(seed)
        self.rng = Random(seed)

    def draw(self, count: int) -> list[int]:
        """Indices into `topics`; -1 stands for an invented name."""
        weights = self._kind_weights * np.clip(self._losses, KNOWN, UNKNOWN)
        drawn = self._generator.choice(len(weights), count, p=weights / weights.sum())
        drawn[self._generator.random(count) < INVENTED_SHARE] = -1
        return [int(index) for index in drawn]

    def topic(self, index: int) -> Topic:
        return self.topics[index] if index >= 0 else self._invented.topic(self.rng, held_out=False)

    def learn(self, indices: NDArray[np.int64], losses: NDArray[np.float64]) -> None:
        """Note how the answers to these topics went: negative log likelihoods, float, one for each index."""
        known = indices >= 0
        old = self._losses[indices[known]]
        self._losses[indices[known]] = MEMORY * old + (1 - MEMORY) * losses[known]

    def state(self) -> dict[str, Any]:
        return {"losses": self._losses, "generator": self._generator.bit_generator.state, "rng": self.rng.getstate()}

    def restore(self, state: dict[str, Any]) -> None:
        self._losses = state["losses"]
        self._generator.bit_generator.state = state["generator"]
        self.rng.setstate(state["rng"])
