"""A fact: what the standard library says of one of its public names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Fact:
    """One public name and what is documented of it.

    name: dotted, as a user would write it ("shutil.copytree", "str.split", "len"). kind: module, class, function or
    method. module: where it is imported from ("builtins" for what needs no import). description: the first sentence of
    the docstring. signature: as `help()` shows it, without annotations ("" where the interpreter knows none).
    """

    name: str
    kind: str
    module: str
    description: str
    signature: str

    @property
    def short_name(self) -> str:
        """The last part of the name."""
        return self.name.rpartition(".")[2]
