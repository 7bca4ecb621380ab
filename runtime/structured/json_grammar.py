"""JSON schemas within grammars of llguidance, all with the same blanks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from inflight.runtime.structured.schemas import followable

# Blank space between the parts of JSON. Without a bound a model that likes blanks never comes to an end.
BLANKS = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,32}"}


def json_rule(schema: Mapping[str, Any] | bool) -> str:
    """What stands in a Lark grammar for JSON of `schema`. Raises RequestError as `followable`."""
    own = followable(schema)
    return f"%json {json.dumps({**own, 'x-guidance': BLANKS}, ensure_ascii=False)}"
