"""The expressions of the types that a gen may have, where SGLang's programs look for them."""

from __future__ import annotations

from inflight.lang.options import EXPRESSIONS

REGEX_INT, REGEX_FLOAT, REGEX_BOOL, REGEX_STR = (EXPRESSIONS[kind] for kind in ("int", "float", "bool", "str"))
