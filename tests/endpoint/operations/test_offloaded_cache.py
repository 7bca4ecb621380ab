"""KV cache blocks in files: what one server computed, the next one finds, in either mode."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inflight.triton_backend.launch.installation import TritonInstallation
from inflight.triton_backend.launch.supervision.processes import children
from tests.endpoint.conftest import free_ports
from tests.endpoint.operations.served import MODEL, Served, serving
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.endpoint


# For the process of a model: the end of the model is never done, as if Triton had not begun it.
ENDLESS = """
import concurrent.futures, time

concurrent.futures.ThreadPoolExecutor.shutdown = lambda *given, **named: time.sleep(600)
"""


def _ask(served: Served, prompt: list[int]) -> tuple[str, int]:
    """The answer, and how many tokens of the prompt were found in the cache."""
    with served.client() as client:
        answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=9, temperature=0)
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    return answer.choices[0].text, answer.usage.prompt_tokens_details.cached_tokens or 0


def _never_finalize(served: Served) -> None:
    """From now on the model with the engine does not end in order; the server is started again with such a one."""
    parts = served.parts()
    model = Path(children(parts["tritonserver"])[parts["tensorrt_llm"]].split("\0")[1])
    model.write_text(ENDLESS + model.read_text().replace("from __future__ import annotations", ""))
    os.kill(parts["tritonserver"], signal.SIGKILL)
    assert eventually(lambda: served.said().count("Triton is ready") == 2 and served.is_healthy())


def _stop(served: Served) -> None:
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(PATIENCE_S) == 0, served.said()
    assert "Traceback" not in served.said()


def test_the_next_server_finds_what_the_one_before_it_computed(
    installation: TritonInstallation, engine: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    prompt = rng.integers(40, 200, 500).tolist()
    flags = ("--kv-offload-dir", str(tmp_path / "kv"), "--swap-space", "0.01")
    with serving(engine, tmp_path, *flags) as served:
        _never_finalize(served)
        text, cached = _ask(served, prompt)
        assert cached == 0
        _stop(served)
    with serving(engine, tmp_path, *flags, "--embedded") as served:
        assert _ask(served, prompt) == (text, 496)
        victim = served.parts()["api"]
        os.kill(victim, signal.SIGKILL)
        assert eventually(lambda: served.parts().get("api", victim) != victim and served.is_healthy())
        assert _ask(served, prompt) == (text, 496)
        _refused(engine, *flags)
        _stop(served)
    with serving(engine, tmp_path, *flags) as served:
        assert _ask(served, prompt) == (text, 496)
        _stop(served)


def _refused(engine: Path, *flags: str) -> None:
    """A second server."""
    command = [str(Path(sys.executable).with_name("inflight")), "serve", str(engine), "--embedded", *flags]
    ended = subprocess.run(
        [*command, "--port", str(free_ports(1)[0])], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert ended.returncode == 1 and "Another process keeps its KV cache blocks" in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr
