"""What grammars of llguidance are made of: JSON of a schema, always with the same blanks, and special tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from inflight.runtime.structured.schemas import followable
from inflight.runtime.text.tokenizer import Tokenizer

# Blank space between the parts of JSON. Without a bound a model that likes blanks never comes to an end.
BLANKS = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,32}"}


def json_rule(schema: Mapping[str, Any] | bool) -> str:
    """What stands in a Lark grammar for JSON of `schema`. Raises RequestError as `followable`."""
    own = followable(schema)
    return f"%json {json.dumps({**own, 'x-guidance': BLANKS}, ensure_ascii=False)}"


def special_token(marker: str, tokenizer: Tokenizer) -> str | None:
    """What stands in a Lark grammar for a marker that is one special token; None: it is text."""
    token_id = tokenizer.token_id(marker)
    return None if token_id is None or tokenizer.special_piece(token_id) is None else f"<[{token_id}]>"
