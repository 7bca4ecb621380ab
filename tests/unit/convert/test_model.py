"""The conversion as a whole: what is written, what is refused, and what an interrupt leaves behind."""

from __future__ import annotations

import json
import math
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from inflight.convert import api, writer
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.errors import InflightError, ModelError
from tests.models.hf_files import DTYPES, random_tensors, tiny_config, write_model
from tests.models.tiny_tokenizers import byte_level

pytestmark = pytest.mark.unit

FAMILIES = ["llama", "mistral", "qwen2", "qwen3"]


def converted(tmp_path: Path, rng: np.random.Generator, config: dict[str, Any], **options: Any) -> Checkpoint:
    write_model(tmp_path / "model", config, random_tensors(config, rng))
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(**options))
    return Checkpoint.open(tmp_path / "checkpoint")


@pytest.mark.parametrize("family", FAMILIES)
def test_no_weight_is_lost_and_none_is_made_up(tmp_path: Path, rng: np.random.Generator, family: str) -> None:
    config = tiny_config(family, tie_word_embeddings=bool(rng.integers(2)))
    tensors = random_tensors(config, rng)
    write_model(tmp_path / "model", config, tensors, shards=int(rng.integers(1, 4)))
    convert_model(tmp_path / "model", tmp_path / "checkpoint")
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    stored = np.concatenate([checkpoint.array(name).ravel() for name in checkpoint.tensors])
    source = np.concatenate([tensor.ravel() for tensor in tensors.values()])
    np.testing.assert_array_equal(np.sort(stored), np.sort(source))
    assert checkpoint.config.architecture == config["architectures"][0]
    assert checkpoint.ties_embeddings == config["tie_word_embeddings"]


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_norms_with_an_offset_hold_the_very_sum_of_transformers(
    tmp_path: Path, rng: np.random.Generator, family: str, dtype: str
) -> None:
    config = tiny_config(family, sliding_window=9, torch_dtype=dtype, num_hidden_layers=7)
    tensors = random_tensors(config, rng, dtype)
    write_model(tmp_path / "model", config, tensors)
    convert_model(tmp_path / "model", tmp_path / "checkpoint")
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    names = {"model.norm": "ln_f"}
    for layer in range(7):
        source, target = f"model.layers.{layer}.", f"layers.{layer}."
        names |= {
            f"{source}input_layernorm": f"{target}input_layernorm",
            f"{source}post_attention_layernorm": f"{target}post_layernorm",
            f"{source}pre_feedforward_layernorm": f"{target}pre_feedforward_layernorm",
            f"{source}post_feedforward_layernorm": f"{target}post_feedforward_layernorm",
        }
        if family == "gemma3":
            names |= {f"{source}self_attn.{n}_norm": f"{target}attention.{n}_layernorm" for n in "qk"}
    for source, target in names.items():
        stored = checkpoint.array(f"transformer.{target}.weight")
        assert stored.dtype == np.float32
        np.testing.assert_array_equal(stored, np.float32(1) + tensors[f"{source}.weight"].astype(np.float32))
    assert {entry.dtype for name, entry in checkpoint.tensors.items() if "norm" not in name and "ln_f" not in name} == {
        dtype
    }


def test_the_rank_file_is_one_that_the_safetensors_package_reads(tmp_path: Path, rng: np.random.Generator) -> None:
    checkpoint = converted(tmp_path, rng, tiny_config("qwen2"), dtype="float16")
    for name, array in load_file(checkpoint.rank_file()).items():
        np.testing.assert_array_equal(array, checkpoint.array(name))


def test_tensors_of_even_sizes_are_aligned_for_mapping(tmp_path: Path, rng: np.random.Generator) -> None:
    checkpoint = converted(tmp_path, rng, tiny_config(hidden_size=32, vocab_size=37, intermediate_size=28))
    for entry in checkpoint.tensors.values():
        assert entry.offset % 64 == 0 or entry.nbytes % 64 != 0


@pytest.mark.parametrize("source", list(DTYPES))
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_weights_are_rounded_once_to_the_nearest(
    tmp_path: Path, rng: np.random.Generator, source: str, dtype: str
) -> None:
    config = tiny_config(torch_dtype=source)
    tensors = random_tensors(config, rng, source)
    write_model(tmp_path / "model", config, tensors)
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(dtype=dtype))  # type: ignore[arg-type]
    stored = Checkpoint.open(tmp_path / "checkpoint").array("transformer.layers.2.mlp.proj.weight")
    expected = tensors["model.layers.2.mlp.down_proj.weight"].astype(DTYPES[dtype])
    assert stored.tobytes() == expected.tobytes()


@pytest.mark.parametrize("source", list(DTYPES))
@pytest.mark.parametrize("named", [True, False])
def test_auto_keeps_the_type_of_the_source(tmp_path: Path, rng: np.random.Generator, source: str, named: bool) -> None:
    config = tiny_config(torch_dtype=source if named else None)
    write_model(tmp_path / "model", config, random_tensors(config, rng, source))
    convert_model(tmp_path / "model", tmp_path / "checkpoint")
    assert Checkpoint.open(tmp_path / "checkpoint").config.dtype == source


def test_auto_asks_when_the_tensors_differ_and_the_config_is_silent(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config(torch_dtype=None)
    tensors = random_tensors(config, rng)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float16)
    write_model(tmp_path / "model", config, tensors)
    with pytest.raises(ModelError, match=r"float16, float32.*pass --dtype"):
        convert_model(tmp_path / "model", tmp_path / "checkpoint")


def test_a_value_too_large_for_float16_is_an_error_that_names_its_tensor(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    config = tiny_config()
    tensors = random_tensors(config, rng)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = -70000.0
    write_model(tmp_path / "model", config, tensors)
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight does not fit float16.*70000"):
        convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(dtype="float16"))
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_no_number_is_an_error_that_names_its_tensor(
    tmp_path: Path, rng: np.random.Generator, dtype: str, value: float
) -> None:
    """Whatever the type, a vector or a matrix, and wherever in it."""
    config = tiny_config(torch_dtype=dtype, vocab_size=9000)
    tensors = random_tensors(config, rng, dtype)
    names = list(tensors)
    name = names[rng.integers(len(names))]
    tensors[name].reshape(-1)[rng.integers(tensors[name].size)] = value
    write_model(tmp_path / "model", config, tensors)
    for changed in ("auto", "float32", "bfloat16"):
        with pytest.raises(ModelError, match=f"Tensor {name} holds infinities or NaN"):
            convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(dtype=changed))
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_every_problem_is_reported_at_once(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config()
    tensors = random_tensors(config, rng)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    tensors["model.norm.weight"] = np.ones(7, np.float32)
    tensors["model.layers.1.self_attn.q_proj.weight"] = np.zeros((48, 20), np.int32)
    tensors["model.layers.0.adapter.weight"] = np.ones(3, np.float32)
    config |= {"hidden_act": "mish", "rope_scaling": {"type": "mrope", "factor": 2.0}}
    write_model(tmp_path / "model", config, tensors)
    with pytest.raises(ModelError) as error:
        convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(tp_size=3))
    for part in (
        f"{tmp_path / 'model'} cannot be converted",
        "hidden_act 'mish'",
        "rope type 'mrope'",
        "tp_size 3 does not divide the 8 attention heads",
        "missing tensor: model.layers.0.mlp.up_proj.weight (28, 20)",
        "misshapen tensor: model.norm.weight is (7,), the config asks for (20,)",
        "model.layers.1.self_attn.q_proj.weight is int32",
        "unknown tensor: model.layers.0.adapter.weight",
    ):
        assert part in str(error.value)


def test_a_long_list_of_missing_tensors_is_cut_and_counted(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config()
    write_model(tmp_path / "model", config | {"num_hidden_layers": 23}, random_tensors(config, rng))
    with pytest.raises(ModelError, match=r"and 140 more of the kind: missing tensor"):
        convert_model(tmp_path / "model", tmp_path / "checkpoint")


def test_an_unknown_architecture_is_refused_with_the_known_ones(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config(architectures=["MambaForCausalLM"])
    write_model(tmp_path / "model", config, random_tensors(config, rng))
    with pytest.raises(ModelError, match=r"MambaForCausalLM is not supported: .*\nSupported architectures: Llama"):
        convert_model(tmp_path / "model", tmp_path / "checkpoint")


def test_tables_that_follow_from_the_config_are_ignored(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config()
    tensors = random_tensors(config, rng) | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(3, np.float32)}
    write_model(tmp_path / "model", config, tensors)
    convert_model(tmp_path / "model", tmp_path / "checkpoint")
    assert not any("inv_freq" in name for name in Checkpoint.open(tmp_path / "checkpoint").tensors)


@pytest.mark.parametrize("same", [True, False])
def test_a_stored_projection_of_a_tied_model_counts_only_when_it_differs(
    tmp_path: Path, rng: np.random.Generator, same: bool
) -> None:
    config = tiny_config(tie_word_embeddings=True)
    tensors = random_tensors(config, rng)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * (1 if same else 2)
    write_model(tmp_path / "model", config, tensors)
    convert_model(tmp_path / "model", tmp_path / "checkpoint")
    checkpoint = Checkpoint.open(tmp_path / "checkpoint")
    assert checkpoint.ties_embeddings is same
    assert checkpoint.config.tie_word_embeddings is same


def test_the_same_model_gives_the_same_bytes(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config("qwen3")
    tensors = random_tensors(config, rng)
    digests, tokenizer = [], byte_level()
    for place in ("here", "there/deeper"):
        write_model(tmp_path / place / "model", config, tensors)
        tokenizer.save(str(tmp_path / place / "model" / "tokenizer.json"))
        convert_model(tmp_path / place / "model", tmp_path / place / "out", ConvertOptions(tp_size=2, dtype="bfloat16"))
        files = sorted(path for path in (tmp_path / place / "out").rglob("*") if path.is_file())
        digests.append([Checkpoint.open(tmp_path / place / "out").sha256(), *(path.read_bytes() for path in files)])
    assert digests[0] == digests[1]


def test_memory_does_not_grow_with_the_model(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHUNK_BYTES", 1 << 16)
    config = tiny_config(hidden_size=256, intermediate_size=1024, vocab_size=4000, num_hidden_layers=4, head_dim=32)
    tensors = random_tensors(config, rng)
    write_model(tmp_path / "model", config, tensors)
    total = sum(tensor.nbytes for tensor in tensors.values())
    monkeypatch.setattr("inflight.files.atomic._CHUNK", 1 << 16)
    tracemalloc.start()
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(dtype="bfloat16", tp_size=2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total > 16 << 20
    assert peak < 2 << 20


def test_an_interrupt_leaves_nothing_behind(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()
    write_model(tmp_path / "model", config, random_tensors(config, rng))
    written = []

    def interrupted(path: Path, *args: Any) -> None:
        writer.write_rank_file(path, *args)
        written.append(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "write_rank_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_model(tmp_path / "model", tmp_path / "checkpoint")
    assert written and list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_an_existing_checkpoint_is_replaced_only_on_request(tmp_path: Path, rng: np.random.Generator) -> None:
    first = converted(tmp_path, rng, tiny_config()).sha256()
    with pytest.raises(InflightError, match="already exists"):
        convert_model(tmp_path / "model", tmp_path / "checkpoint")
    assert Checkpoint.open(tmp_path / "checkpoint").sha256() == first
    convert_model(tmp_path / "model", tmp_path / "checkpoint", ConvertOptions(dtype="float16", overwrite=True))
    assert Checkpoint.open(tmp_path / "checkpoint").config.dtype == "float16"


def test_a_full_disk_is_noticed_before_anything_is_written(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    config = tiny_config()
    write_model(tmp_path / "model", config, random_tensors(config, rng))
    with pytest.raises(InflightError, match=r"The checkpoint needs .* free"):
        convert_model(tmp_path / "model", tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


def test_the_config_says_all_that_serving_needs(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config("mistral", sliding_window=9, eos_token_id=2)
    write_model(tmp_path / "model", config, random_tensors(config, rng))
    generation = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": None, "eos_token_id": [5, 7, 5]}
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(generation))
    byte_level().save(str(tmp_path / "model" / "tokenizer.json"))
    for name in ("tokenizer_config.json", "chat_template.jinja", "README.md"):
        (tmp_path / "model" / name).write_text("{}")
    convert_model(tmp_path / "model", tmp_path / "checkpoint")
    facts = Checkpoint.open(tmp_path / "checkpoint").config.inflight
    assert facts is not None
    assert facts.end_token_ids == (5, 7, 2)
    assert (facts.bos_token_id, facts.pad_token_id, facts.sliding_window) == (1, None, 9)
    assert facts.sampling_defaults == {"temperature": 0.6, "top_p": 0.9}
    assert facts.source.model == "model"
    copied = sorted(path.name for path in (tmp_path / "checkpoint" / "tokenizer").iterdir())
    assert copied == ["chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]


def test_sampling_defaults_count_only_when_the_model_samples(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config(eos_token_id=[3, 4])
    write_model(tmp_path / "model", config, random_tensors(config, rng))
    (tmp_path / "model" / "generation_config.json").write_text('{"temperature": 0.6, "repetition_penalty": 1.1}')
    convert_model(tmp_path / "model", tmp_path / "checkpoint")
    facts = Checkpoint.open(tmp_path / "checkpoint").config.inflight
    assert facts is not None
    assert facts.sampling_defaults == {"repetition_penalty": 1.1}
    assert facts.end_token_ids == (3, 4)


@pytest.mark.parametrize(
    ("name", "value"), [("top_p", 2), ("temperature", -1), ("temperature", math.nan), ("repetition_penalty", math.inf)]
)
def test_a_sampling_default_that_no_request_could_have_is_refused(
    tmp_path: Path, rng: np.random.Generator, name: str, value: float
) -> None:
    config = tiny_config()
    write_model(tmp_path / "model", config, random_tensors(config, rng))
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"do_sample": True, name: value}))
    with pytest.raises(ModelError, match=rf"generation_config\.json .*{name}"):
        convert_model(tmp_path / "model", tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


def test_a_model_is_never_replaced_by_its_own_checkpoint(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config()
    model = write_model(tmp_path / "model", config, random_tensors(config, rng))
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    with pytest.raises(InflightError, match="did not write it"):
        convert_model(model, model, ConvertOptions(overwrite=True))
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_bfloat16_arrays_come_back_as_bfloat16(tmp_path: Path, rng: np.random.Generator) -> None:
    checkpoint = converted(tmp_path, rng, tiny_config(), dtype="bfloat16")
    assert checkpoint.array("transformer.ln_f.weight").dtype == ml_dtypes.bfloat16
