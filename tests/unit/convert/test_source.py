"""Finding and opening a source model: each way in which it can be missing or damaged has its own message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.convert.source.location.hub import locate
from inflight.convert.source.model import open_source
from inflight.errors import ModelError
from tests.models.hf_files import random_tensors, tiny_config, write_model

pytestmark = pytest.mark.unit


def model(tmp_path: Path, rng: np.random.Generator, shards: int = 1) -> Path:
    config = tiny_config()
    return write_model(tmp_path / "model", config, random_tensors(config, rng), shards)


def test_a_sharded_model_is_one_table(tmp_path: Path, rng: np.random.Generator) -> None:
    one = open_source(model(tmp_path / "a", rng), None)
    three = open_source(model(tmp_path / "b", rng, shards=3), None)
    assert one.tensors.keys() == three.tensors.keys()
    assert len(three.weight_files) == 3


def test_the_digest_follows_contents_and_not_places(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config()
    tensors = random_tensors(config, rng)
    digests = [open_source(write_model(tmp_path / name, config, tensors), None).sha256() for name in ("x", "y")]
    assert digests[0] == digests[1]
    (tmp_path / "y" / "tokenizer.json").write_text("{}")
    assert open_source(tmp_path / "y", None).sha256() != digests[0]


def test_a_path_that_does_not_exist_is_not_mistaken_for_a_hub_id(tmp_path: Path) -> None:
    for path in (tmp_path / "none", str(tmp_path / "none"), "./none", "a/b/c"):
        with pytest.raises(ModelError, match="is not a directory"):
            locate(path, None, ())


def test_a_gguf_file_that_is_not_there_is_no_hub_id(tmp_path: Path, rng: np.random.Generator) -> None:
    for name in ("none.gguf", str(tmp_path / "none.GGUF")):
        with pytest.raises(ModelError, match="There is no file"):
            locate(name, None, ())
    directory = model(tmp_path, rng)
    (directory / "model.safetensors").rename(directory / "model.Q4_0.gguf")
    with pytest.raises(ModelError, match=r"it has model\.Q4_0\.gguf") as error:
        open_source(directory, None)
    assert "the path of a GGUF file" in str(error.value)


def test_an_unreachable_hub_says_what_to_try(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"someone/something at revision v2 .*hub cannot be reached") as error:
        locate("someone/something", "v2", ("config.json",))
    assert "HF_HUB_OFFLINE" in str(error.value)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached_snapshot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The snapshot folder of someone/something in an offline hub cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--something"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return repository / "snapshots" / COMMIT


def test_a_hub_model_is_taken_from_the_cache_and_its_commit_recorded(
    tmp_path: Path, cached_snapshot: Path, rng: np.random.Generator
) -> None:
    config = tiny_config()
    write_model(cached_snapshot, config, random_tensors(config, rng))
    for revision in (None, "main", COMMIT):
        convert_model("someone/something", tmp_path / "out", ConvertOptions(revision=revision, overwrite=True))
        facts = Checkpoint.open(tmp_path / "out").config.inflight
        assert facts is not None
        assert (facts.source.model, facts.source.revision) == ("someone/something", COMMIT)


def test_a_hub_model_is_refused_by_its_config_before_its_weights_are_fetched(
    tmp_path: Path, cached_snapshot: Path
) -> None:
    cached_snapshot.mkdir(parents=True)
    config = tiny_config(quantization_config={"quant_method": "awq", "bits": 3})
    (cached_snapshot / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"someone/something cannot be converted:\n.*awq with bits 3 \(supported: 4\)"):
        convert_model("someone/something", tmp_path / "out")


def test_a_revision_of_a_local_directory_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(ModelError, match="--revision main has no meaning"):
        open_source(model(tmp_path, rng), "main")


def test_a_directory_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        open_source(tmp_path, None)


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, rng: np.random.Generator, text: str) -> None:
    (model(tmp_path, rng) / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json (is not valid JSON|does not hold a JSON object)"):
        open_source(tmp_path / "model", None)


def test_torch_pickles_are_refused_with_the_way_out(tmp_path: Path, rng: np.random.Generator) -> None:
    directory = model(tmp_path, rng)
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin") as error:
        open_source(directory, None)
    assert f"from_pretrained('{directory}'" in str(error.value)


def test_weights_under_another_name_are_mentioned(tmp_path: Path, rng: np.random.Generator) -> None:
    directory = model(tmp_path, rng)
    (directory / "model.safetensors").rename(directory / "consolidated.safetensors")
    with pytest.raises(ModelError, match=r"it has consolidated\.safetensors"):
        open_source(directory, None)


def test_a_missing_shard_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    directory = model(tmp_path, rng, shards=3)
    (directory / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks 1 of the 3 files .*model-00002-of-00003"):
        open_source(directory, None)


def test_a_truncated_shard_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    path = model(tmp_path, rng, shards=2) / "model-00001-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ModelError, match=r"model-00001-of-00002\.safetensors is truncated"):
        open_source(tmp_path / "model", None)


def test_an_index_that_contradicts_the_files_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    index = model(tmp_path, rng, shards=2) / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["model.ghost.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"places tensors where they are not: model\.ghost\.weight"):
        open_source(tmp_path / "model", None)
    index.write_text("{}")
    with pytest.raises(ModelError, match="has no weight_map"):
        open_source(tmp_path / "model", None)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    directory = model(tmp_path, rng, shards=2)
    first, second = (directory / f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    second.write_bytes(first.read_bytes())
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="repeats tensors of another file"):
        open_source(directory, None)


@pytest.mark.parametrize("form", ["absolute", "above", "below", "dots", "empty"])
def test_an_index_that_leaves_its_directory_is_refused(tmp_path: Path, rng: np.random.Generator, form: str) -> None:
    """Though a file is there: what a download brings must not choose what is read beside it."""
    index = model(tmp_path, rng, shards=2) / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    name, file = next(iter(content["weight_map"].items()))
    (index.parent / "below").mkdir()
    shutil.copyfile(index.parent / file, index.parent / "below" / file)
    shutil.copyfile(index.parent / file, tmp_path / file)
    forms = {
        "absolute": str(index.parent / file),
        "above": f"../{file}",
        "below": f"below/{file}",
        "dots": "..",
        "empty": "",
    }
    content["weight_map"][name] = forms[form]
    index.write_text(json.dumps(content))
    with pytest.raises(ModelError, match="names files that are not in its directory"):
        open_source(index.parent, None)
