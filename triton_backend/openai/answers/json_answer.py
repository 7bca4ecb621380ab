"""JSON as it goes out: always valid UTF-8 and one line, whatever strings of a client or a model it has."""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi.responses import JSONResponse

# Made once: json.dumps makes an encoder per call unless everything is left at its default.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# JSON can spell half of a surrogate pair, which is no character and has no encoding.
_HALF_PAIR = re.compile("[\ud800-\udfff]")
# JSON leaves these as they are, and clients that cut a stream as str.splitlines does (httpx, and so huggingface_hub and
# ollama) would cut an event in the middle.
_LINE_ENDS = re.compile("[\x85\u2028\u2029]")


def json_bytes(value: Any) -> bytes:
    """`value` in UTF-8, in one line as str.splitlines sees lines; half of a surrogate pair becomes the replacement
    character."""
    text = _encode(value)
    if text.isascii():
        return text.encode()
    text = _LINE_ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _HALF_PAIR.sub("\N{REPLACEMENT CHARACTER}", text).encode()


class JsonAnswer(JSONResponse):
    """A response of JSON that can always be written."""

    def render(self, content: Any) -> bytes:
        return json_bytes(content)
