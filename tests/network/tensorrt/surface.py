"""Writes down the Python surface of full TensorRT, from the public source of its bindings, for the classes we use.

    python -m tests.network.tensorrt.surface CLONE_OF_NVIDIA_TENSORRT > tests/network/tensorrt/surface.json

The bindings of full TensorRT cannot be imported without its libraries; what they offer is in python/src/infer/*.cpp,
and `tensorrt.plugin`, which is Python, beside them.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.network.tensorrt.calls import ENUMERATORS, PROTOCOLS

_PLUGIN_FOLDER = "python/packaging/bindings_wheel/tensorrt/plugin"
_SOURCES = ("pyCore.cpp", "pyFoundationalTypes.cpp", "pyGraph.cpp")
_BLOCK = re.compile(r'py::(class_|enum_)<[^(]*?>\s*\(\s*m,\s*"(\w+)"', re.DOTALL)
_MEMBER = re.compile(r'\.(def|def_property|def_property_readonly|def_readwrite|def_readonly)\(\s*"(\w+)"')
_ARGUMENT = re.compile(r'"(\w+)"_a|py::arg\("(\w+)"\)')
_VALUE = re.compile(r'\.value\(\s*"(\w+)"')


def surface(root: Path) -> dict[str, Any]:
    """{"version", "classes": {class: {member: [[argument, ...] of each overload] or null}}, "enumerations", "plugin"}.

    "plugin" has the public names of tensorrt.plugin: {class: {member: [argument, ...] or null}, function: [argument,
    ...]}.
    """
    text = "\n".join((root / "python/src/infer" / name).read_text(encoding="utf-8") for name in _SOURCES)
    wanted = {name for names in PROTOCOLS.values() for name in names}
    classes: dict[str, Any] = {}
    enumerations: dict[str, list[str]] = {}
    for match, body in _pieces(_BLOCK, text):
        if match[1] == "enum_" and match[2] in ENUMERATORS:
            enumerations[match[2]] = sorted(_VALUE.findall(body))
        elif match[1] == "class_" and match[2] in wanted:
            classes[match[2]] = dict(sorted(_members(body).items()))
    plugin = plugin_surface(root / _PLUGIN_FOLDER)
    return {"version": _version(root), "classes": classes, "enumerations": enumerations, "plugin": plugin}


def plugin_surface(folder: Path) -> dict[str, Any]:
    """What its decorator `public_api` exports; a class has the members of its base classes, too."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("_*.py"))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
    found: dict[str, Any] = {}
    for node in nodes:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or not any(map(_is_export, node.decorator_list)):
            continue
        found[node.name] = _class_members(node, classes) if isinstance(node, ast.ClassDef) else _arguments(node)
    # Exported by calls, not by decorators.
    found |= {name: {} for tree in trees for name in re.findall(r'symbol="(\w+)"', ast.unparse(tree).replace("'", '"'))}
    return dict(sorted(found.items()))


def _is_export(decorator: ast.expr) -> bool:
    function = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(function, ast.Name) and function.id == "public_api"


def _class_members(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> dict[str, list[str] | None]:
    """Properties are null; so are attributes that __init__ sets."""
    bases = [classes[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
    found: dict[str, list[str] | None] = {}
    for base in bases:
        found |= _class_members(base, classes)
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and (member.name.startswith("__") or not member.name.startswith("_")):
            decorators = {ast.unparse(decorator).split(".")[-1] for decorator in member.decorator_list}
            found[member.name] = None if decorators & {"property", "setter"} else _arguments(member)[1:]
            if member.name == "__init__":
                found |= {
                    target.attr: None
                    for inner in ast.walk(member)
                    if isinstance(inner, ast.Assign)
                    for target in inner.targets
                    if isinstance(target, ast.Attribute) and not target.attr.startswith("_")
                }
    return dict(sorted(found.items()))


def _arguments(function: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in function.args.args]


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
