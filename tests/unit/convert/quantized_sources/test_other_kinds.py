"""What is no model of Hugging Face is named as what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.convert.api import convert_model
from inflight.convert.source.model import open_source
from inflight.errors import ModelError
from tests.models.hf_files import random_tensors, tiny_config, write_model

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"adapter_config.json": {"base_model_name_or_path": "org/base"}}, r"PEFT adapter \(LoRA\) of org/base"),
        ({"adapter_config.json": [], "adapter_model.safetensors": ""}, r"PEFT adapter \(LoRA\), not a model"),
        ({"model_index.json": {"_class_name": "StableDiffusionPipeline"}}, r"diffusers pipeline \(StableDiffusion"),
        ({"params.json": {}, "consolidated.00.pth": ""}, "in the format of its maker"),
        ({"manifest.json": {}}, "is an engine already"),
        ({"model.onnx": ""}, r"is an ONNX model \(model.onnx\)"),
        ({"rank0.engine": ""}, "is an engine of TensorRT"),
        ({"config.json": {"build_config": {}, "pretrained_config": {}}}, "is an engine of TensorRT-LLM"),
        ({"notes.txt": ""}, "has no config.json"),
    ],
)
def test_a_directory_says_what_it_is(tmp_path: Path, files: dict[str, Any], words: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ModelError, match=words):
        open_source(tmp_path, None)


def test_an_adapter_beside_the_config_of_its_base_is_one_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny_config()))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    with pytest.raises(ModelError, match="PEFT adapter") as caught:
        open_source(tmp_path, None)
    assert caught.value.hint is not None and "merge_and_unload" in caught.value.hint


def test_a_model_with_such_a_file_beside_it_is_a_model(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config()
    write_model(tmp_path / "model", config, random_tensors(config, rng))
    (tmp_path / "model" / "adapter_config.json").write_text("{}")
    assert open_source(tmp_path / "model", None).label


def test_a_file_is_named_as_one(tmp_path: Path) -> None:
    for name, content, words in (
        ("model.bin", b"GGUF\x03", "GGUF file whose name does not say so"),
        ("model.safetensors", b"\x08\0", "is a file, and no GGUF file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=words):
            open_source(str(tmp_path / name), None)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%x\nsize %d\n"
PAGES = (
    b"<!DOCTYPE html>\n<html>",
    b"\n\n<HTML lang=en>",
    b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer.model", "a.gguf"])
def test_what_was_never_downloaded_is_named(tmp_path: Path, rng: np.random.Generator, name: str) -> None:
    config = tiny_config(num_hidden_layers=1)
    write_model(tmp_path / "model", config, random_tensors(config, rng))
    file = tmp_path / "model" / name
    model = file if file.suffix == ".gguf" else tmp_path / "model"
    size = int(rng.integers(1, 1 << 40))
    page = PAGES[rng.integers(len(PAGES))] * 9
    for content, words in (
        (POINTER % (int(rng.integers(1 << 60)), size), f"{name} is a pointer of Git LFS to a file of {size:,} bytes"),
        (page, f"{name} is a web page, not the file"),
    ):
        file.write_bytes(content)
        with pytest.raises(ModelError, match=words):
            convert_model(model, tmp_path / "out")
        assert not (tmp_path / "out").exists()
