"""A real model as it is downloaded, one GGUF file: converted, built and asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from inflight.build.registry import make_recipe
from inflight.cli.resolve import resolve_engine
from inflight.runtime import LLM, SamplingParams
from tests.models.smollm2 import smollm2_gguf

pytestmark = pytest.mark.pipeline


def test_a_gguf_file_is_built_once_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = smollm2_gguf()
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path))
    recipe = make_recipe(max_batch_size=2, max_seq_len=256)
    engine = resolve_engine(str(file), recipe=recipe)
    assert "quantized tensors" in " ".join(capsys.readouterr().err.split())
    assert engine.name.startswith(file.stem)
    assert resolve_engine(str(file), recipe=recipe) == engine
    with LLM(engine) as llm:
        question = [{"role": "user", "content": "What is the capital of France?"}]
        answer = llm.chat([question], SamplingParams(temperature=0, max_tokens=16))[0].outputs[0]
    assert "Paris" in answer.text
    assert answer.finish_reason in ("stop", "length")
