"""What of a model for embeddings or reranking is refused by name, and what is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.options import ConvertOptions
from inflight.errors import BuildError, InflightError, ModelError
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.loading.load import load_engine
from tests.models.families.pooled import PooledModel, save_cross_encoder, save_embedding_model, write_json

pytestmark = pytest.mark.pipeline


@pytest.fixture
def bert(tmp_path: Path, rng: np.random.Generator) -> PooledModel:
    return save_embedding_model(tmp_path / "model", "bert", rng)


def changed(directory: Path, name: str, **changes: Any) -> None:
    path = directory / name
    write_json(path, {**json.loads(path.read_text()), **changes})


def refused(directory: Path, *expected: str) -> None:
    with pytest.raises(ModelError) as raised:
        convert_model(directory, directory.parent / "refused")
    for words in expected:
        assert words in raised.value.message
    assert not (directory.parent / "refused").exists()


def test_the_checkpoint_has_what_modules_json_says(bert: PooledModel, tmp_path: Path) -> None:
    convert_model(bert.directory, tmp_path / "checkpoint")
    pooling = Checkpoint.open(tmp_path / "checkpoint").config.pooling
    assert pooling is not None and (pooling.task, pooling.normalize) == ("embed", bert.normalize)
    names = {"lasttoken": "last", "weightedmean": "weighted_mean", "mean_sqrt_len_tokens": "mean_sqrt_len"}
    assert pooling.pooling == names.get(bert.pooling or "", bert.pooling)
    assert (pooling.max_length, pooling.prompts) == (100, {"query": "the lazy ", "document": ""})


def test_all_that_cannot_be_followed_is_one_message(bert: PooledModel) -> None:
    directory = bert.directory
    modules = json.loads((directory / "modules.json").read_text())
    modules.append({"idx": 9, "name": "9", "path": "9_LSTM", "type": "sentence_transformers.models.LSTM"})
    modules[0]["type"] = "custom_st.Transformer"
    write_json(directory / "modules.json", modules)
    changed(directory, "1_Pooling/config.json", include_prompt=False, pooling_mode=["mean", "cls"])
    lengths = {"do_lower_case": True, "transformer_task": "text-generation", "query_length": 3}
    lengths["modality_config"] = {"text": {"method": "forward", "method_output_name": "pooler_output"}}
    changed(directory, "sentence_bert_config.json", **lengths, processing_kwargs={"text": {"max_length": 3}})
    changed(directory, "config_sentence_transformers.json", default_prompt_name="nobody", truncate_dim=3)
    changed(directory, "config.json", is_decoder=True, position_embedding_type="relative_key")
    refused(
        directory,
        "module LSTM",
        "module custom_st.Transformer of modules.json is code of the model's own",
        "include_prompt false",
        "the pooling mean, cls",
        "do_lower_case True",
        "transformer_task 'text-generation'",
        "query_length 3",
        "processing_kwargs",
        "modality_config.text",
        "truncate_dim 3 of config_sentence_transformers.json is not supported: ask for so many dimensions",
        "default_prompt_name 'nobody'",
        "is_decoder True",
        "position_embedding_type 'relative_key'",
    )


def test_an_encoder_without_modules_has_the_mean(bert: PooledModel, tmp_path: Path) -> None:
    (bert.directory / "modules.json").unlink()
    convert_model(bert.directory, tmp_path / "checkpoint")
    pooling = Checkpoint.open(tmp_path / "checkpoint").config.pooling
    assert pooling is not None and (pooling.pooling, pooling.normalize) == ("mean", False)


def test_a_decoder_without_modules_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    model = save_embedding_model(tmp_path / "model", "qwen3", rng)
    changed(model.directory, "config.json", is_causal="no", use_bidirectional_attention=True)
    refused(model.directory, "is_causal must be true or false, not 'no'", "use_bidirectional_attention True")
    (model.directory / "modules.json").unlink()
    refused(model.directory, "it has no modules.json")


def test_code_of_a_models_own_is_not_taken_for_the_class_of_its_name(
    tmp_path: Path, bert: PooledModel, rng: np.random.Generator
) -> None:
    """As gte-Qwen2 and GritLM, whose tokens see all others though their config names a decoder."""
    code = {"AutoConfig": "configuration_some.Config", "AutoModel": "modeling_some.Model"}
    changed(bert.directory, "config.json", auto_map=code)
    refused(bert.directory, "auto_map names code of the model's own (modeling_some.Model)")
    windows = save_embedding_model(tmp_path / "windows", "mistral", rng, sliding_window=20)
    changed(windows.directory, "config.json", auto_map=code)
    refused(windows.directory, "modeling_some.Model", 'say in config.json what it does, "is_causal": false')
    changed(windows.directory, "config.json", is_causal=False)
    refused(windows.directory, "is_causal false is not supported beside windows")
    changed(windows.directory, "config.json", sliding_window=None)
    convert_model(windows.directory, tmp_path / "checkpoint")
    layers = Checkpoint.open(tmp_path / "checkpoint").spec.layers
    assert not any(layer.attention.causal for layer in layers)


def test_what_is_missing_is_said(bert: PooledModel) -> None:
    (bert.directory / "modules.json").unlink()
    changed(bert.directory, "config.json", architectures=["BertForMaskedLM"])
    refused(bert.directory, "BertForMaskedLM", "what becomes of its hidden states")


def test_dense_modules_that_cannot_be_followed_are_refused(bert: PooledModel) -> None:
    directory = bert.directory
    modules = json.loads((directory / "modules.json").read_text())[:2]
    write_json(
        directory / "modules.json", [*modules, {"path": "9_Dense", "type": "sentence_transformers.models.Dense"}]
    )
    refused(directory, "9_Dense has no model.safetensors: only safetensors are read")
    (directory / "9_Dense").mkdir(exist_ok=True)
    size = bert.model.config.hidden_size
    save_file({"linear.weight": np.ones((3, size), np.float32)}, directory / "9_Dense" / "model.safetensors")
    config = {"in_features": size + 1, "out_features": 3, "bias": False, "use_residual": True}
    write_json(directory / "9_Dense" / "config.json", {**config, "activation_function": "torch.nn.ELU"})
    refused(
        directory,
        f"Dense takes {size + 1} numbers and gets {size}",
        "Dense: activation_function ELU",
        "Dense: use_residual True",
    )
    write_json(directory / "9_Dense" / "config.json", {"in_features": size, "out_features": 4})
    refused(directory, "sentence_transformers.dense.0.weight")


def test_folders_outside_the_model_are_not_read(bert: PooledModel) -> None:
    write_json(bert.directory / "modules.json", [{"type": "x.Transformer", "path": "../.."}])
    refused(bert.directory, "../..")


def test_what_becomes_of_a_classifiers_numbers_is_read_or_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    model = save_cross_encoder(tmp_path / "model", "bert", rng)
    changed(model.directory, "config.json", sbert_ce_default_activation_function="torch.nn.modules.linear.Identity")
    convert_model(model.directory, tmp_path / "checkpoint")
    pooling = Checkpoint.open(tmp_path / "checkpoint").config.pooling
    assert pooling is not None and (pooling.task, pooling.activation, pooling.labels) == ("score", "identity", 1)
    for named in ("torch.nn.Tanh", "torch.nn.Softmax"):
        changed(model.directory, "config.json", sbert_ce_default_activation_function=named)
        refused(model.directory, f"the activation '{named}' of scores is not supported: Identity and Sigmoid are")
    several = save_cross_encoder(tmp_path / "several", "bert", rng, num_labels=3)
    changed(several.directory, "config.json", id2label={"0": "bad", "2": "good", "1": "so-so"})
    for number, (problem, expected) in enumerate(
        ((None, "softmax"), ("multi_label_classification", "sigmoid"), ("regression", "identity"))
    ):
        changed(several.directory, "config.json", problem_type=problem)
        convert_model(several.directory, tmp_path / f"several-{number}")
        found = Checkpoint.open(tmp_path / f"several-{number}").config.pooling
        assert found is not None and (found.task, found.labels, found.activation) == ("classify", 3, expected)
        assert found.label_names == ("bad", "so-so", "good")
    changed(several.directory, "config.json", num_labels="three")
    refused(several.directory, "num_labels must be a number of labels up to 65536, not 'three'")


def test_calibration_and_other_targets_are_refused(bert: PooledModel, tmp_path: Path) -> None:
    with pytest.raises(InflightError, match="yields no logits"):
        convert_model(bert.directory, tmp_path / "checkpoint", ConvertOptions(quantize="int4"))
    convert_model(bert.directory, tmp_path / "checkpoint")
    with pytest.raises(BuildError, match="a model for embeddings or reranking: it is for --target cpu or reference"):
        build_engine(tmp_path / "checkpoint", tmp_path / "engine", make_recipe("tensorrt", kv_cache_dtype="float32"))


def test_a_step_has_room_for_the_longest_text(bert: PooledModel, tmp_path: Path) -> None:
    convert_model(bert.directory, tmp_path / "checkpoint")
    for fields, message in (
        ({"max_num_tokens": 90, "max_batch_size": 4}, "--max-num-tokens 90: at least --max-seq-len, 100"),
        ({"max_seq_len": 121}, "the model knows 120 positions"),
        ({"max_logit_rows": 7}, r"--max-logit-rows 7: .* decides it, (\d+) here(\.$|, or (?!\1 ))"),
    ):
        with pytest.raises(BuildError, match=message):
            build_engine(tmp_path / "checkpoint", tmp_path / "engine", make_recipe("reference", **fields))


def test_the_commands_name_nothing_that_generates(bert: PooledModel, tmp_path: Path) -> None:
    checkpoint, engine = str(tmp_path / "checkpoint"), str(tmp_path / "engine")
    for words in (
        ["convert", str(bert.directory), "--output-dir", checkpoint],
        ["build-engine", "--checkpoint-dir", checkpoint, "--output-dir", engine, "--target", "reference"],
    ):
        result = CliRunner().invoke(build_app(words[:1]), words, catch_exceptions=False)
        assert result.exit_code == 0 and "end token" not in result.output and "generate" not in result.output
    assert "inflight serve" in result.output


def test_nothing_generates_with_such_an_engine(
    bert: PooledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert_model(bert.directory, tmp_path / "checkpoint")
    build_engine(tmp_path / "checkpoint", tmp_path / "engine", make_recipe("reference", max_seq_len=64))
    assert read_engine_directory(tmp_path / "engine").manifest.limits.max_seq_len == 64
    executor = load_engine(tmp_path / "engine", threads=1)
    with pytest.raises(InflightError, match="This engine makes embeddings"):
        EngineCore(executor)
    executor.close()
    engine = str(tmp_path / "engine")
    # Nothing is built for what is refused.
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "cache"))
    for words, message in (
        (["verify", str(bert.directory), engine], "This engine makes embeddings"),
        (["eval", engine, "--against", str(bert.directory)], "This engine makes embeddings"),
        (["eval", str(bert.directory), "--against", engine], "This engine makes embeddings"),
        (["generate", engine, "hello"], "makes vectors of texts"),
        (["serve", str(bert.directory), "--quantize", "int4"], "yields no logits"),
    ):
        result = CliRunner().invoke(build_app(words[:1]), words)
        assert result.exit_code == 1 and isinstance(result.exception, InflightError), result.output
        assert message in result.exception.message and "Building an engine" not in result.output
        assert not list((tmp_path / "cache").glob("engines/*/manifest.json"))


def test_what_rows_for_distances_are_made_of_is_named_where_it_is_not_there(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    changes = {"share_att_key": False, "pos_att_type": ["c2p"], "norm_rel_ebd": "layer_norm", "num_hidden_layers": 2}
    model = save_cross_encoder(tmp_path / "model", "deberta-v2", rng, **changes)
    path = model.directory / "model.safetensors"
    tensors = load_file(path)
    table, missing = "deberta.encoder.rel_embeddings.weight", "deberta.encoder.layer.1.attention.self.pos_key_proj.bias"
    del tensors[missing], tensors["deberta.encoder.LayerNorm.weight"]
    save_file({**tensors, table: tensors[table][1:]}, path)
    shape = tensors[table].shape
    found = f"misshapen tensor: {table} is {(shape[0] - 1, shape[1])}, the config asks for {shape}"
    refused(model.directory, found, f"missing tensor: {missing}", "missing tensor: deberta.encoder.LayerNorm.weight")
    model.model.save_pretrained(model.directory)
    with pytest.raises(ModelError, match="tp_size 2: disentangled attention is not split over ranks"):
        convert_model(model.directory, tmp_path / "split", ConvertOptions(tp_size=2))
