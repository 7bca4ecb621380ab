"""The first sentence of a docstring."""

from __future__ import annotations

import re

MAX_CHARS = 160
_HEADING_OR_EXAMPLE = re.compile(r">>>|.*\n[~=-]{3,}$")
_LABEL = re.compile(r"^[\w.]+: ")
_CALL = re.compile(r"^[\w.]+\(.*|.*\)\s*->.*|^[\w.]+\s*->.*")
_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)(?<!\bcf)[.!?](?=\s+[A-Z\[(\"'`]|\s*$)|:(?=\s*$)")


def first_sentence(docstring: str) -> str:
    """The first sentence of prose, on one line, with a full stop; "" where there is none or it is too long.

    Lines that repeat the signature ("len(obj, /) -> int") come first in many docstrings of C functions and are not
    prose.
    """
    for paragraph in re.split(r"\n\s*\n", docstring.strip()):
        prose = _without_calls(paragraph)
        if not re.search(r"[a-z]{2}", prose) or _HEADING_OR_EXAMPLE.match(prose):
            continue
        sentence = _cut(_LABEL.sub("", " ".join(prose.split())))
        return sentence if len(sentence.split()) >= 2 and len(sentence) <= MAX_CHARS else ""
    return ""


def _without_calls(paragraph: str) -> str:
    """The paragraph less the lines at its start that show how the function is called."""
    lines = [line.strip() for line in paragraph.splitlines()]
    while lines and _CALL.match(lines[0]):
        rest = re.search(r"(?:--|—|:)\s+([A-Z].*)", lines[0])
        if rest:
            lines[0] = rest.group(1)
            break
        lines.pop(0)
    return "\n".join(lines)


def _cut(prose: str) -> str:
    end = _SENTENCE_END.search(prose)
    body = (prose[: end.start()] if end else prose).strip().rstrip(".:;,")
    return body[:1].upper() + body[1:] + "." if body else ""
