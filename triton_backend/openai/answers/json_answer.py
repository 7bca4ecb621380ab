"""JSON as it goes out: always valid UTF-8, whatever strings of a client it quotes."""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi.responses import JSONResponse

# Made once: json.dumps makes an encoder per call unless everything is left at its default.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# JSON can spell half of a surrogate pair, which is no character and has no encoding.
_HALF_PAIR = re.compile("[\ud800-\udfff]")


def json_bytes(value: Any) -> bytes:
    """`value` in UTF-8; half of a surrogate pair becomes the replacement character."""
    text = _encode(value)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _HALF_PAIR.sub("\N{REPLACEMENT CHARACTER}", text).encode()


class JsonAnswer(JSONResponse):
    """A response of JSON that can always be written."""

    def render(self, content: Any) -> bytes:
        return json_bytes(content)
