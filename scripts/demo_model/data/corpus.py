"""The facts of the standard library, asked of a fresh process of this interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from demo_model.data.facts import Fact

SCRIPTS = Path(__file__).resolve().parents[2]
_PROGRAM = f"""
import sys
sys.path = [path for path in sys.path if path] + [{str(SCRIPTS)!r}]
from demo_model.data import introspect
introspect.main()
"""


@dataclass(frozen=True, slots=True)
class Corpus:
    """facts: sorted by name, each name once. attributes: every name that a module or class has, documented or not.
    unseen: names of private functions with a description that is in no fact, for the perplexity.
    """

    facts: tuple[Fact, ...]
    attributes: dict[str, frozenset[str]]
    unseen: tuple[tuple[str, str], ...]


def read_corpus() -> Corpus:
    """Look at the standard library in a process of its own, which imports all of it and sees no other package.

    The same interpreter gives the same corpus. Raises CalledProcessError when the process fails; stderr says why.
    """
    command = [sys.executable, "-s", "-S", "-c", _PROGRAM]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PYTHONHASHSEED"] = "0"
    result = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment, check=True)
    found = json.loads(result.stdout)
    return Corpus(
        facts=tuple(Fact(**fields) for fields in found["facts"]),
        attributes={owner: frozenset(names) for owner, names in found["attributes"].items()},
        unseen=tuple((name, text) for name, text in found["unseen"]),
    )
