"""Fixtures of every tier. Inputs are random and fresh each run; a failure prints the seed that repeats it."""

from __future__ import annotations

import os
import runpy
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.plainer_machine import restrict_libraries, restrict_native_level

restrict_libraries()

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from inflight.files.cache import writable_cache_dir  # noqa: E402
from tests.paths import SCRIPTS, TESTS  # noqa: E402

restrict_native_level()

# Zig's own libraries take seconds to make. Tests that have a cache of their own share them.
os.environ.setdefault("ZIG_GLOBAL_CACHE_DIR", str(writable_cache_dir() / "zig"))

# Triton decides when it is first imported whether kernels are interpreted, and torch may import it before a test does.
os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell starts background jobs with SIGINT ignored, nohup with SIGHUP, and what they start inherits that: no test of
# Ctrl-C or of a closed terminal could pass.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

SEED_VARIABLE = "INFLIGHT_TEST_SEED"
_seed_key = pytest.StashKey[int]()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this test: fresh each run, or the value of INFLIGHT_TEST_SEED."""
    value = int(os.environ.get(SEED_VARIABLE, "0")) or secrets.randbelow(2**31 - 1) + 1
    request.node.stash[_seed_key] = value
    return value


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def embedded_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model, to read alone. Training its tokenizer takes seconds."""
    place = tmp_path_factory.mktemp("embedded") / "model"
    sys.path.append(str(SCRIPTS))
    runpy.run_path(str(SCRIPTS / "make_embedded_model.py"))["make_embedded_model"](place)
    return place


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tiers take turns, so that tests that wait for servers run beside those that compile; units are last: they are
    short, and no process is left alone with a long file at the end."""
    tiers: dict[str, list[Path]] = {}
    for file in dict.fromkeys(item.path for item in items):
        tiers.setdefault(file.relative_to(TESTS).parts[0], []).append(file)
    places = {
        file: (tier == "unit", place / len(files)) for tier, files in tiers.items() for place, file in enumerate(files)
    }
    items.sort(key=lambda item: places[item.path])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed and _seed_key in item.stash:
        report.sections.append(("seed", f"repeat with {SEED_VARIABLE}={item.stash[_seed_key]}"))
