"""`inflight serve MODEL --target transformers`: a model that no row describes, over the OpenAI API, with Triton and
without.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from inflight.runtime.text.tokenizer import load_tokenizer
from inflight.triton_backend.launch.installation import TritonInstallation
from tests.endpoint.commands.test_serve_command import serving
from tests.engines.serving_engines import write_tokenizer
from tests.models.families.unlisted_models import save_unlisted
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

FLAGS = ("--target", "transformers", "--max-model-len", "200", "--dtype", "float32")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("unlisted") / "random-model"
    write_tokenizer(directory)
    save_unlisted(directory, "xglm", np.random.default_rng(), torch.seed() % 2**31)
    return directory


def _answers(url: str, text: str) -> tuple[str, Any]:
    """Greedily, and with a seed, streamed."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="-", timeout=PATIENCE_S, max_retries=0)
    greedy = client.completions.create(
        model="random-model", prompt=text, max_tokens=20, temperature=0, extra_body={"ignore_eos": True}
    )
    stream = client.chat.completions.create(
        model="random-model",
        messages=[{"role": "user", "content": text}],
        max_tokens=20,
        seed=11,
        temperature=1.0,
        stream=True,
    )
    drawn = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    return greedy.choices[0].text, drawn


def test_it_answers_as_transformers_does_with_triton_and_without(
    model: Path, installation: TritonInstallation, tmp_path: Path
) -> None:
    text = "the quick brown fox"
    found = []
    for flags in ((), ("--embedded",)):
        with serving(model, tmp_path / "cache", *FLAGS, *flags) as (process, url):
            found.append(_answers(url, text))
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=PATIENCE_S)[1]
        assert process.returncode == 0, said
        assert "batch-invariant" in said
    assert found[0] == found[1]
    tokenizer = load_tokenizer(model)
    ids = torch.tensor([tokenizer.encode(text)])
    judge = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    made = judge.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=20,
        min_new_tokens=20,
        do_sample=False,
        eos_token_id=999,
    )
    assert found[0][0] == tokenizer.decode(made[0, ids.shape[1] :].tolist())
    assert json.loads((model / "config.json").read_text())["model_type"] == "xglm"
    assert any((Path(root) / "manifest.json").is_file() for root, *_ in os.walk(tmp_path / "cache"))
