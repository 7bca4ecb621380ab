"""Writes down the Python surface of full TensorRT, from the public source of its bindings, for the classes we use.

    python -m tests.network.tensorrt_surface CLONE_OF_NVIDIA_TENSORRT > tests/network/tensorrt_surface.json

The bindings of full TensorRT cannot be imported without its libraries; what they offer is in python/src/infer/*.cpp.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.network.tensorrt_calls import ENUMERATORS, PROTOCOLS

_SOURCES = ("pyCore.cpp", "pyFoundationalTypes.cpp", "pyGraph.cpp")
_BLOCK = re.compile(r'py::(class_|enum_)<[^(]*?>\s*\(\s*m,\s*"(\w+)"', re.DOTALL)
_MEMBER = re.compile(r'\.(def|def_property|def_property_readonly|def_readwrite|def_readonly)\(\s*"(\w+)"')
_ARGUMENT = re.compile(r'"(\w+)"_a|py::arg\("(\w+)"\)')
_VALUE = re.compile(r'\.value\(\s*"(\w+)"')


def surface(root: Path) -> dict[str, Any]:
    """{"version", "classes": {class: {member: [[argument, ...] of each overload] or null}}, "enumerations"}."""
    text = "\n".join((root / "python/src/infer" / name).read_text(encoding="utf-8") for name in _SOURCES)
    wanted = {name for names in PROTOCOLS.values() for name in names}
    classes: dict[str, Any] = {}
    enumerations: dict[str, list[str]] = {}
    for match, body in _pieces(_BLOCK, text):
        if match[1] == "enum_" and match[2] in ENUMERATORS:
            enumerations[match[2]] = sorted(_VALUE.findall(body))
        elif match[1] == "class_" and match[2] in wanted:
            classes[match[2]] = dict(sorted(_members(body).items()))
    return {"version": _version(root), "classes": classes, "enumerations": enumerations}


def _members(body: str) -> dict[str, list[list[str]] | None]:
    """Attributes are null: their setters' argument names are nobody's business."""
    found: dict[str, list[list[str]] | None] = {}
    for match, definition in _pieces(_MEMBER, body):
        overloads = found.setdefault(match[2], [] if match[1] == "def" else None)
        if overloads is not None:
            overloads.append([first or second for first, second in _ARGUMENT.findall(definition)])
    return found


def _pieces(pattern: re.Pattern[str], text: str) -> list[tuple[re.Match[str], str]]:
    """Every match, with the text up to the next one."""
    matches = list(pattern.finditer(text))
    ends = [match.start() for match in matches[1:]] + [len(text)]
    return [(match, text[match.end() : end]) for match, end in zip(matches, ends, strict=True)]


def _version(root: Path) -> str:
    text = (root / "include/NvInferVersion.h").read_text(encoding="utf-8")
    numbers = [re.search(rf"#define TRT_{part}_ENTERPRISE (\d+)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    return ".".join(number[1] for number in numbers if number is not None)


if __name__ == "__main__":
    json.dump(surface(Path(sys.argv[1])), sys.stdout, indent=1)
    print()
