"""How the benchmark talks to an engine in its own process: JSON lines on stdin and stdout.

A worker loads its model, writes {"ready": true, "version": ...}, then answers each
{"prompts": [[ids], ...], "max_tokens": n} with {"seconds": wall clock, "tokens": generated}. Greedy, end tokens
ignored, nothing reused between calls. Import this first: from then on whatever an engine prints goes to stderr and
cannot break the protocol.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

Generate = Callable[[list[list[int]], int], int]

_answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)


def serve(version: str, generate: Generate) -> None:
    """Answer requests until stdin closes. `generate(prompts, max_tokens)` returns the number of tokens it made."""
    print(json.dumps({"ready": True, "version": version}), file=_answers)
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        tokens = generate(request["prompts"], request["max_tokens"])
        print(json.dumps({"seconds": time.perf_counter() - start, "tokens": tokens}), file=_answers)
