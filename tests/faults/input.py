"""Bad input: bodies of requests, and files on the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from tests.endpoint.dialects import bodies
from tests.endpoint.openai_api.mutations import GOOD
from tests.endpoint.openai_api.test_bad_input import check
from tests.engines.serving_engines import write_null_engine
from tests.faults.report import Row
from tests.faults.served import Mode, served
from tests.pipeline.damaged.damaged_files import TARGETS, damage_checkpoints, damage_engines, damage_models, write_whole

_SHOWN = 1000


def mutate_bodies(modes: Sequence[Mode], scratch: Path, count: int, rng: np.random.Generator) -> list[Row]:
    """An answer or an error of the API for each, the same in every mode."""
    # What does not say how long its answer may be meets an end token.
    engine = write_null_engine(scratch / "engine", end_tokens=True, max_seq_len=1 << 16)
    model = str(GOOD["/v1/completions"]["model"])
    with ExitStack() as stack:
        servers = [stack.enter_context(served(mode, engine, scratch, "--served-model-name", model)) for mode in modes]
        urls = [server.url for server in servers]
        where = " and ".join(modes)
        seed = int(rng.integers(1 << 31))
        rows = [_row(where, "mutated bodies", count, partial(check, (urls[0], urls[-1]), seed, count))]
        dialects = partial(check, (urls[0], urls[-1]), seed, count, bodies.GOOD, bodies.NAMES)
        rows.append(_row(where, "mutated bodies of the dialects", count, dialects))
        for server in servers:
            shown = server.shown()
            figures = shown[shown.find("Traceback") :][:_SHOWN] if "Traceback" in shown else ""
            rows.append(Row(server.mode, "mutated bodies", "no traceback in the log", not figures, figures))
    return rows


def damage_files(scratch: Path, count: int, rng: np.random.Generator) -> list[Row]:
    """Random damage to a file of a model, a checkpoint, an engine: refused, or without a consequence."""
    os.environ["INFLIGHT_CACHE"] = str(scratch / "cache")
    whole = scratch / "whole"
    write_whole(whole, int(rng.integers(1, 1 << 31)))
    rows = [
        _row("convert", "damaged model", count, partial(damage_models, whole, scratch, rng, count)),
        _row("build-engine", "damaged checkpoint", count, partial(damage_checkpoints, whole, scratch, rng, count)),
    ]
    for target in TARGETS:
        check_it = partial(damage_engines, target, whole, scratch, rng, count)
        rows.append(_row("load", f"damaged {target} engine", count, check_it))
    return rows


def _row(where: str, phase: str, count: int, check_it: Callable[[], None]) -> Row:
    try:
        check_it()
    except AssertionError as error:
        cause = f" from {error.__cause__!r}" if error.__cause__ is not None else ""
        return Row(where, phase, "an answer or a refusal", False, f"{error}{cause}"[:_SHOWN])
    return Row(where, phase, "an answer or a refusal", True, f"{count} times")
