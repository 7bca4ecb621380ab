"""What grammars of llguidance are made of: JSON of a schema, always with the same blanks, and special tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from inflight.runtime.structured.schemas import followable, json_options
from inflight.runtime.text.tokenizer import Tokenizer


def json_rule(schema: Mapping[str, Any] | bool) -> str:
    """What stands in a Lark grammar for JSON of `schema`. Raises RequestError as `followable`."""
    own = followable(schema)
    return f"%json {json.dumps({**own, 'x-guidance': json_options(own)}, ensure_ascii=False)}"


def one_of(texts: Iterable[str]) -> str:
    """What stands in a Lark grammar for one of these texts."""
    return " | ".join(map(json.dumps, texts))


def regex_rule(expression: str) -> str:
    """What stands in a Lark grammar for a regular expression: slashes and line breaks by their escapes, where they have
    none yet."""
    return "/(?:" + re.sub(r"\\.|[/\n]", _escaped, expression, flags=re.DOTALL) + ")/"


def _escaped(found: re.Match[str]) -> str:
    return {"/": r"\/", "\n": r"\n"}.get(found[0], found[0])


def special_token(marker: str, tokenizer: Tokenizer) -> str | None:
    """What stands in a Lark grammar for a marker that is one special token; None: it is text."""
    token_id = tokenizer.token_id(marker)
    return None if token_id is None or tokenizer.special_piece(token_id) is None else f"<[{token_id}]>"


def mark_rule(text: str, tokenizer: Tokenizer) -> str:
    """What stands in a Lark grammar for a text as the tokenizer reads it: the special tokens in it are met as those
    tokens alone; "" for no text."""
    shown, rest = [], text
    for token_id in tokenizer.encode(text, add_special_tokens=False) if tokenizer.names_special_token(text) else ():
        piece = tokenizer.special_piece(token_id)
        if piece is not None and piece in rest:
            before, _, rest = rest.partition(piece)
            shown += [json.dumps(before)] * bool(before) + [f"<[{token_id}]>"]
    return " ".join([*shown, *([json.dumps(rest)] if rest else [])])
