"""`inflight serve` of an engine that embeds, with Triton and without."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from inflight.runtime import LLM
from inflight.triton_backend.launch.installation import TritonInstallation
from tests.endpoint.commands.test_serve_command import serving
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint


@pytest.mark.parametrize("flags", [[], ["--embedded"]], ids=["triton", "embedded"])
def test_an_engine_that_embeds_is_served_and_stops(
    installation: TritonInstallation, embedding_engine: Path, tmp_path: Path, flags: list[str]
) -> None:
    with LLM(embedding_engine, threads=1) as llm:
        expected = llm.embed("a lazy fox", use_tqdm=False)[0].outputs.embedding
    with serving(embedding_engine, tmp_path / "cache", "--threads", "1", *flags) as (process, url):
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S) as client:
            answer = client.embeddings.create(model="any", input="a lazy fox")
        np.testing.assert_allclose(answer.data[0].embedding, expected, atol=1e-5)
        assert httpx.get(f"{url}/health").status_code == 200
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, said
        assert ("Triton is ready" in said) == (not flags)
