"""What `convert` says of a checkpoint whose chat template cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from inflight.cli.main import build_app
from tests.models.hf_files import random_tensors, tiny_config, write_model
from tests.models.tiny_tokenizers import byte_level

pytestmark = pytest.mark.unit

GOOD = "{% for message in messages %}{{ message.content }}{% endfor %}"
# What is cut off, misspelled, or no template of Jinja.
BROKEN = [
    "{% for message in messages %}{{ message.content }}",
    "{{ messages[0",
    "{% unheard_of %}",
    "{{ 1 | no_such }}",
]


@pytest.mark.parametrize(
    "place", ["chat_template.jinja", "tokenizer_config.json", "additional_chat_templates/rag.jinja"]
)
@pytest.mark.parametrize("good", [True, False])
def test_a_broken_chat_template_is_said_when_a_model_is_converted(
    place: str, good: bool, tmp_path: Path, rng: np.random.Generator
) -> None:
    template = GOOD if good else BROKEN[rng.integers(len(BROKEN))]
    said = converted(tmp_path, template, place, rng)
    assert ("chat template cannot be read" in said) != good, (template, said)


@pytest.mark.parametrize("good", [True, False])
def test_so_is_the_template_of_a_model_that_scores_pairs(good: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    template = "{# 'query', 'document' #}" + (GOOD if good else BROKEN[rng.integers(len(BROKEN))])
    said = converted(tmp_path, template, "chat_template.jinja", rng, "--score-tokens", "a,b")
    assert ("Pairs are refused unless --chat-template" in said) != good, (template, said)


def converted(root: Path, template: str, place: str, rng: np.random.Generator, *words: str) -> str:
    """What `inflight convert` says of a model with this template."""
    backend = byte_level()
    config = tiny_config(vocab_size=backend.get_vocab_size(), eos_token_id=2, num_hidden_layers=1)
    model = write_model(root / "model", config, random_tensors(config, rng))
    backend.save(str(model / "tokenizer.json"))
    file = model / place
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"chat_template": template}) if place.endswith(".json") else template)
    line = ["convert", str(model), "-o", str(root / "checkpoint"), *words]
    result = CliRunner().invoke(build_app(["convert"]), line, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stderr
