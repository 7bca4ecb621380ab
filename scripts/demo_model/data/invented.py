"""Names that the standard library does not have, to learn and to test that the model says so.

Three ways: a real module with a function put together from pieces of real names ("shutil.movetree"), a real name in
the wrong place ("os.copytree"), and words out of syllables ("vonelma.tarib"). One name in eight is kept from training;
which ones follows from the name alone.
"""

from __future__ import annotations

import hashlib
import re
from random import Random

from demo_model.data.corpus import Corpus
from demo_model.data.topics import Topic, name_phrasings

REFUSAL = "I do not know that name: it is not in Python's standard library."
_KINDS = ("describe", "describe", "describe", "signature", "module")
_PIECE = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


class InventedNames:
    """A source of names that do not exist; the same corpus and generator give the same names."""

    def __init__(self, corpus: Corpus) -> None:
        functions = [fact for fact in corpus.facts if fact.kind in ("function", "method")]
        self._owners = sorted({fact.name.rpartition(".")[0] for fact in functions} - {""})
        self._short_names = sorted({fact.short_name for fact in functions})
        self._pieces = sorted({piece for name in self._short_names for piece in _PIECE.findall(name)})
        self._real = {fact.name for fact in corpus.facts}
        self._attributes = corpus.attributes
        self._every_attribute = frozenset().union(*corpus.attributes.values())

    def name(self, rng: Random, held_out: bool) -> str:
        """A dotted name that is no attribute of any module or class that the corpus knows."""
        while True:
            name = rng.choice((self._assembled, self._assembled, self._misplaced, self._syllables))(rng)
            if is_held_out(name) == held_out and not self._exists(name):
                return name

    def topic(self, rng: Random, held_out: bool) -> Topic:
        """A question about such a name, with its refusal."""
        kind, name = rng.choice(_KINDS), self.name(rng, held_out)
        while kind == "module" and name.rpartition(".")[2] in self._every_attribute:
            name = self.name(rng, held_out)
        return Topic("invented", name, REFUSAL, name_phrasings(kind, name))

    def _exists(self, name: str) -> bool:
        owner, _, short = name.rpartition(".")
        return name in self._real or short in self._attributes.get(owner or "builtins", ())

    def _assembled(self, rng: Random) -> str:
        while True:
            short = rng.choice(("", "_")).join(rng.choice(self._pieces).lower() for _ in range(2))
            if short not in self._every_attribute:
                return f"{rng.choice(self._owners)}.{short}"

    def _misplaced(self, rng: Random) -> str:
        return f"{rng.choice(self._owners)}.{rng.choice(self._short_names)}"

    def _syllables(self, rng: Random) -> str:
        words = [
            "".join(rng.choice("bdfghklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.randint(2, 4)))
            + rng.choice(("", "", "n", "r", "b", "x"))
            for _ in range(rng.randint(1, 2))
        ]
        return ".".join(words)


def is_held_out(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] % 8 == 0
