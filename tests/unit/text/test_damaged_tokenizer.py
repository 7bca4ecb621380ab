"""Files of a tokenizer that are damaged are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from inflight.errors import InflightError
from inflight.runtime.text.tokenizer import load_tokenizer
from tests.pipeline.damaged.damage import RAW, WEIRD
from tests.unit.text.test_tokenizer import save

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("damage", ["missing directory", "empty directory", "bad json", "bad config", "long id"])
def test_tokenizer_files_that_cannot_be_read_are_named(damage: str, tmp_path: Path) -> None:
    directory = tmp_path / "tokenizer"
    if damage != "missing directory":
        directory.mkdir()
    if damage == "bad json":
        (directory / "tokenizer.json").write_text('{"version": "1.0"')
    if damage == "bad config":
        save(directory, "byte_level")
        (directory / "tokenizer_config.json").write_text("[1]")
    if damage == "long id":
        save(directory, "byte_level")
        (directory / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {"9" * 5000: "<x>"}}))
    with pytest.raises(InflightError, match="tokenizer"):
        load_tokenizer(directory)


TOKEN_KEYS = (
    *("tokenizer_class", "eos_token", "pad_token", "added_tokens_decoder", "extra_special_tokens", "chat_template"),
    *("additional_special_tokens", "clean_up_tokenization_spaces", "model_max_length"),
)


def test_any_value_of_a_tokenizer_config_is_read_or_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    """Whatever JSON or what is none stands in a place of it, alone or inside a token."""
    save(tmp_path, "byte_level")
    around = ("%s", '{"content": %s}', '{"content": "<x>", "lstrip": %s}', '{"0": %s}', "[%s]", '{"%s": "<x>"}')
    values = [*(json.dumps(value) for value in WEIRD), *RAW]
    for _ in range(60):
        key, value = str(rng.choice(TOKEN_KEYS)), values[rng.integers(len(values))]
        text = f'{{"{key}": {str(rng.choice(around)).replace("%s", value)}}}'
        (tmp_path / "tokenizer_config.json").write_text(text)
        try:
            load_tokenizer(tmp_path).encode("Hello")
        except InflightError as error:
            assert "tokenizer" in str(error)
        except BaseException as error:
            raise AssertionError(text[:300]) from error
