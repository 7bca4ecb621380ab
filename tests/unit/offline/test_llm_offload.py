"""Blocks in files from the LLM class and the command line: a prompt is found by the next process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from inflight.cli.main import build_app
from inflight.errors import EngineError, InflightError
from inflight.runtime import LLM, SamplingParams
from inflight.runtime.kv_cache.offload.directory import is_held
from tests.engines.null_engine import write_null_engine
from tests.engines.pooling_engines import write_pooling_engine
from tests.models.tiny_tokenizers import random_text

pytestmark = pytest.mark.unit

PARAMS = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write_null_engine(tmp_path / "engine", sampling_defaults={"temperature": 0.0}, max_seq_len=2048)


def _cached(llm: LLM, prompt: str) -> tuple[str, int]:
    (output,) = llm.generate(prompt, PARAMS)
    assert output.metrics is not None
    return output.outputs[0].text, output.metrics.cached_tokens


def test_a_prompt_is_found_by_the_next_process(engine: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    prompt, place = " ".join(random_text(rng) for _ in range(20))[:300], tmp_path / "kv"
    with LLM(engine, kv_offload_dir=place, kv_offload_bytes=1 << 20) as llm:
        text, cached = _cached(llm, prompt)
        assert cached == 0 and is_held(place)
    assert not is_held(place)
    with LLM(engine, kv_offload_dir=str(place)) as llm:
        again, cached = _cached(llm, prompt)
        assert again == text and cached > 0
    flags = ["--max-tokens", "8", "--ignore-eos", "--json", "--kv-offload-dir", str(place)]
    result = CliRunner().invoke(build_app(["generate"]), ["generate", str(engine), prompt, *flags])
    assert result.exit_code == 0, result.output
    shown: dict[str, Any] = json.loads(result.stdout)
    assert shown["outputs"][0]["text"] == text and shown["metrics"]["cached_tokens"] == cached


def test_an_engine_that_cannot_be_opened_lets_others_have_the_directory(engine: Path, tmp_path: Path) -> None:
    place = tmp_path / "kv"
    with pytest.raises(EngineError, match="one block takes"):
        LLM(engine, kv_offload_dir=place, kv_offload_bytes=10)
    assert not is_held(place)
    with LLM(engine, kv_offload_dir=place), pytest.raises(EngineError, match="Another process"):
        LLM(engine, kv_offload_dir=place)
    assert not is_held(place)


def test_sizes_in_gib_are_of_memory_without_a_directory(tmp_path: Path) -> None:
    """They reach the server, which has no use for them where the engine generates no text."""
    engine = write_pooling_engine(tmp_path, "embed")
    for flag in ("--swap-space", "--kv-offloading-size"):
        result = CliRunner().invoke(build_app(["serve"]), ["serve", str(engine), "--embedded", flag, "0.1"])
        assert isinstance(result.exception, InflightError) and "keeps no KV cache" in str(result.exception)
    with LLM(write_null_engine(tmp_path / "null"), kv_offload_bytes=1 << 20) as llm:
        assert llm.generate("a", PARAMS)[0].outputs[0].token_ids
