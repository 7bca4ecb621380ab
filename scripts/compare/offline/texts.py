"""Real English of which measurements make prompts: what Python's standard library says of itself. The same texts on
every machine that has the same Python."""

from __future__ import annotations

import importlib
import inspect
from functools import cache

from inflight.runtime.text.tokenizer import Tokenizer

_MODULES = "argparse ast asyncio calendar collections csv datetime decimal difflib email.message enum fractions ftplib"
_MODULES += " functools gettext glob gzip heapq html http.client inspect io ipaddress itertools json locale logging"
_MODULES += (
    " mailbox math mimetypes numbers os pathlib pdb pickle platform plistlib pprint queue random re sched shelve"
)
_MODULES += " shutil smtplib socket sqlite3 ssl statistics string subprocess sys tarfile tempfile textwrap threading"
_MODULES += (
    " time timeit tokenize traceback turtle typing unittest.mock urllib.request uuid warnings wave xml.dom zipfile"
)


@cache
def sentences() -> tuple[str, ...]:
    """First lines of docstrings, each once, in the order of modules and names."""
    found: dict[str, None] = {}
    for module in map(importlib.import_module, _MODULES.split()):
        owners = [module, *(each for _, each in inspect.getmembers(module, inspect.isclass))]
        for owner in owners:
            for _, member in inspect.getmembers(owner, callable):
                line = (inspect.getdoc(member) or "").partition("\n\n")[0].replace("\n", " ").strip()
                if 20 < len(line) < 160:
                    found[line] = None
    return tuple(found)


def text_of(tokenizer: Tokenizer, num_tokens: int) -> str:
    """So many tokens of it, one more or less."""
    text = " ".join(sentences())
    ids = tokenizer.encode(text[: num_tokens * 12], add_special_tokens=False)
    return tokenizer.decode(ids[:num_tokens])
