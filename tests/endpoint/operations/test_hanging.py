"""An engine whose process is halted in the middle of a step: the watchdog names the step, and service goes on after."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import openai
import pytest

from inflight.triton_backend.launch.installation import TritonInstallation
from tests.endpoint.operations.served import Clients, Served, serving
from tests.patience import eventually

pytestmark = pytest.mark.endpoint


@pytest.mark.parametrize("flags", [[], ["--embedded"]], ids=["triton", "embedded"])
def test_the_step_that_hangs_is_named(
    flags: list[str], installation: TritonInstallation, engine: Path, tmp_path: Path
) -> None:
    with serving(engine, tmp_path, "--hang-seconds", "0.5", *flags) as served:
        before, parts = served.ask(), served.parts()
        victim = parts["api" if flags else "tensorrt_llm"]
        clients = Clients(served, triton=False)
        # It may be halted between two steps as well, and before the second client is in one.
        named = re.compile(
            r"The engine hangs: (step \d+ \([12] sequences, \d+ tokens\) has run|nothing has come after step \d+) "
            rf"for \S+ seconds; stopped by a signal: \w+, pid {victim}\b"
        )
        os.kill(victim, signal.SIGSTOP)
        assert eventually(lambda: named.search(served.said()) is not None), served.said()
        if not flags:
            assert served.health()[0] == 503
        os.kill(victim, signal.SIGCONT)
        assert eventually(lambda: served.is_healthy())
        # Where cores are scarce, Triton may have given the process up, and be started again.
        assert eventually(lambda: _answer(served) == before)
        clients.leave()


def _answer(served: Served) -> str | None:
    """None: Triton cannot be reached just now."""
    try:
        return served.ask()
    except openai.InternalServerError:
        return None
