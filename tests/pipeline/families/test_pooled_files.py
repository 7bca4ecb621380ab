"""What the files beside the config of a model that pools say, and that no value of theirs ends in a traceback."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import transformers
from typer.testing import CliRunner

from inflight.accuracy.requirement import read_requirements
from inflight.build.engine import build_engine, plan_build
from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from inflight.convert.api import convert_model, plan_source
from inflight.convert.checkpoint.pooling import PoolingRecord
from inflight.convert.families.pooling.kinds import TOKENIZER_KEY
from inflight.convert.families.pooling.tokenizer import read_tokenizer
from inflight.convert.options import ConvertOptions
from inflight.convert.source.model import open_source
from inflight.errors import BuildError, ModelError
from inflight.runtime import LLM
from tests.models.families.pooled import (
    PooledModel,
    save_cross_encoder,
    save_embedding_model,
    save_tokenizer,
    write_json,
)
from tests.models.tiny_tokenizers import random_text
from tests.oracles.pooling import score, widened

pytestmark = pytest.mark.pipeline

_LENGTHS, _PROMPTS, _POOLING = (
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)


@pytest.fixture
def bert(tmp_path: Path, rng: np.random.Generator) -> PooledModel:
    return save_embedding_model(tmp_path / "model", "bert", rng)


@pytest.fixture
def classifier(tmp_path: Path, rng: np.random.Generator) -> PooledModel:
    return save_cross_encoder(tmp_path / "classifier", "bert", rng, num_labels=3)


def changed(directory: Path, name: str, **changes: Any) -> None:
    path = directory / name
    write_json(path, {**(json.loads(path.read_text()) if path.is_file() else {}), **changes})


def planned(directory: Path) -> PoolingRecord:
    pooling = plan_source(open_source(directory, None), ConvertOptions()).config.pooling
    assert pooling is not None
    return pooling


def refused(directory: Path, *expected: str) -> None:
    with pytest.raises(ModelError) as raised:
        planned(directory)
    for words in expected:
        assert words in raised.value.message


def test_the_length_is_the_tokenizers_where_no_file_of_its_own_has_one(
    bert: PooledModel, classifier: PooledModel, rng: np.random.Generator
) -> None:
    length, placeholder = int(rng.integers(1, 100)), int(1e30)
    changed(bert.directory, "tokenizer_config.json", model_max_length=length)
    assert planned(bert.directory).max_length == 100
    (bert.directory / _LENGTHS).unlink()
    assert planned(bert.directory).max_length == length
    write_json(bert.directory / "sentence_roberta_config.json", {"max_seq_length": length + 1})
    assert planned(bert.directory).max_length == length + 1
    (bert.directory / "modules.json").unlink()
    assert planned(bert.directory).max_length == length
    changed(classifier.directory, "tokenizer_config.json", model_max_length=length)
    assert planned(classifier.directory).max_length == length
    for none in (placeholder, float(placeholder), None):
        changed(classifier.directory, "tokenizer_config.json", model_max_length=none)
        assert planned(classifier.directory).max_length is None
    for wrong in ("long", -5, 1.5, 0, True):
        changed(classifier.directory, "tokenizer_config.json", model_max_length=wrong)
        refused(classifier.directory, "model_max_length of tokenizer_config.json must be a positive integer")
        write_json(bert.directory / "modules.json", [])
        refused_length(bert.directory, wrong)


def refused_length(directory: Path, wrong: Any) -> None:
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    listed = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    write_json(directory / "modules.json", listed)
    write_json(directory / _LENGTHS, {"max_seq_length": wrong})
    refused(directory, f"max_seq_length of {_LENGTHS} must be a positive integer, not {wrong!r}")


def test_pooling_that_nothing_describes_is_refused(bert: PooledModel) -> None:
    modules = json.loads((bert.directory / "modules.json").read_text())
    for path, words in (
        (None, "module 1 has no path"),
        (5, "path of module 1 must be a text, not 5"),
        ("", "module Pooling of modules.json has no folder"),
        ("2_Pooling", "module Pooling of modules.json has 2_Pooling/config.json, which is not there"),
    ):
        write_json(bert.directory / "modules.json", [modules[0], {**modules[1], "path": path}, *modules[2:]])
        refused(bert.directory, words)
    write_json(bert.directory / "modules.json", [modules[0], {"type": modules[1]["type"]}])
    refused(bert.directory, "module 1 has no path")
    write_json(bert.directory / "modules.json", [{**modules[0], "path": "0_Transformer"}, *modules[1:]])
    refused(bert.directory, "module Transformer of modules.json lies in '0_Transformer'")
    write_json(bert.directory / "modules.json", [*modules, "Normalize"])
    refused(bert.directory, "must be an object, not 'Normalize'")
    write_json(bert.directory / "modules.json", modules)
    for config, words in (
        ({"pooling_mode": 5}, "pooling_mode of 1_Pooling/config.json must be a text or a list of texts, not 5"),
        (
            {"pooling_mode_mean_tokens": "yes"},
            "pooling_mode_mean_tokens of 1_Pooling/config.json must be true or false",
        ),
        ({"pooling_mode": "mean", "embedding_dimension": 47}, "embedding_dimension 47 of 1_Pooling/config.json"),
    ):
        write_json(bert.directory / _POOLING, config)
        refused(bert.directory, words)
    (bert.directory / _POOLING).unlink()
    refused(bert.directory, "module Pooling of modules.json has 1_Pooling/config.json, which is not there")


def test_labels_that_do_not_fit_are_named(classifier: PooledModel) -> None:
    for listed, words in (
        (None, "a row for each label of id2label or num_labels"),
        ({"0": "a", "1": "b"}, "a row for each label of id2label or num_labels"),
        (["a", "b", "c"], "id2label must be an object that names labels by number, not ['a', 'b', 'c']"),
        ({"0": "a", "2": "b", "4": "c"}, "id2label must name the labels 0 to 2; it names '0, 2, 4'"),
    ):
        changed(classifier.directory, "config.json", id2label=listed)
        refused(classifier.directory, words)


# Values of every type, of which a key may have one or two.
_WRONG: tuple[Any, ...] = (
    *(None, True, False, 5, 0, -5, 1.5, 1e30, "x", "", [], ["x"], [[]], [5], {}, {"x": 5}, {"text": 5}, {"text": []}),
    *({"text": {"method": []}}, {"x": {}}, [{}], [None], {"0": None}, {"0": []}),
)
_KEYS = {
    "modules.json": ("type", "path", "idx", "name"),
    _LENGTHS: (
        *("max_seq_length", "do_lower_case", "transformer_task", "module_output_name", "processing_kwargs"),
        *("query_length", "document_length", "query_expansion", "modality_config"),
    ),
    _PROMPTS: ("prompts", "default_prompt_name", "truncate_dim", "activation_fn", "similarity_fn_name", "__version__"),
    _POOLING: ("pooling_mode", "pooling_mode_mean_tokens", "include_prompt", "embedding_dimension"),
    "tokenizer_config.json": ("model_max_length", "model_input_names", "tokenizer_class"),
    "2_Dense/config.json": (
        *("in_features", "out_features", "bias", "activation_function", "use_residual", "module_input_name"),
    ),
    "config.json": (
        *("id2label", "num_labels", "problem_type", "sentence_transformers", "classifier_pooling"),
        *("sbert_ce_default_activation_function", "tokenizer_class", "architectures", "auto_map"),
    ),
}


def test_a_value_of_any_type_is_read_or_refused(
    bert: PooledModel, classifier: PooledModel, rng: np.random.Generator
) -> None:
    """Never another exception than ours."""
    listed = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    write_json(classifier.directory / "modules.json", listed)
    for directory in (bert.directory, classifier.directory):
        planned(directory)
        for name, keys in _KEYS.items():
            path = directory / name
            if not path.is_file():
                continue
            before = path.read_text()
            whole = json.loads(before)
            for key in keys:
                for number in rng.permutation(len(_WRONG))[:8]:
                    wrong = _WRONG[number]
                    change = [{**each, key: wrong} for each in whole] if isinstance(whole, list) else None
                    write_json(path, {**whole, key: wrong} if change is None else change)
                    try:
                        planned(directory)
                    except ModelError:
                        pass
                    except Exception as error:
                        raise AssertionError(f"{name}: {key} is {wrong!r}") from error
            for wrong in _WRONG:
                write_json(path, wrong)
                with contextlib.suppress(ModelError):
                    planned(directory)
            path.write_text(before)


def test_kinds_of_tokens_are_those_that_transformers_passes(
    tmp_path: Path, classifier: PooledModel, rng: np.random.Generator
) -> None:
    """Where model_input_names has no token_type_ids, all tokens of a pair are of the first kind."""
    model = save_cross_encoder(tmp_path / "model", "bert", rng)
    config = json.loads((model.directory / "tokenizer_config.json").read_text())
    config["model_input_names"] = ["input_ids", "attention_mask"]
    write_json(model.directory / "tokenizer_config.json", config)
    backend = tokenizers.Tokenizer.from_file(str(model.directory / "tokenizer.json"))
    backend.no_truncation()
    backend.no_padding()
    texts = [random_text(rng) + "fox" for _ in range(4)]
    ids = [backend.encode("a lazy dog", text).ids for text in texts]
    raw = score(widened(model.model), ids, [[0] * len(each) for each in ids])
    convert_model(model.directory, tmp_path / "checkpoint")
    build_engine(tmp_path / "checkpoint", tmp_path / "engine", make_recipe("reference"))
    with LLM(tmp_path / "engine", threads=1) as llm:
        found = np.array([each.outputs.score for each in llm.score("a lazy dog", texts, use_tqdm=False)])
    assert np.abs(found - 1 / (1 + np.exp(-raw))).max() < 1e-4


@pytest.mark.parametrize("named", [None, "BertTokenizer", "ElectraTokenizerFast", "PreTrainedTokenizerFast", "Nobodys"])
def test_a_class_that_says_no_inputs_has_those_of_transformers(named: str | None, tmp_path: Path) -> None:
    save_tokenizer(tmp_path, tells_pairs=True)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["model_input_names"], config["tokenizer_class"]
    config |= {} if named is None else {"tokenizer_class": named}
    write_json(tmp_path / "tokenizer_config.json", config)
    for kind in ("bert", "electra", "roberta"):
        write_json(tmp_path / "config.json", {"model_type": kind})
        problems: list[str] = []
        _, told = read_tokenizer({"model_type": kind, TOKENIZER_KEY: config}, problems)
        judge = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
        assert told == ("token_type_ids" in judge.model_input_names) and not problems


def test_no_figures_of_accuracy_are_asked_or_told_of_a_model_without_logits(bert: PooledModel, tmp_path: Path) -> None:
    notes = convert_model(bert.directory, tmp_path / "checkpoint", ConvertOptions(quantize="nf4"))
    (warning,) = (note for note in notes if note.startswith("Warning"))
    assert "perplexity of generators" in warning and "int4 is calibrated" not in warning
    build = plan_build(tmp_path / "checkpoint", make_recipe("reference"))
    with pytest.raises(BuildError, match="without logits") as raised:
        build.require(read_requirements(["kl<=0.1"]))
    assert "eval" not in str(raised.value.hint)


def test_a_model_without_a_tokenizer_is_for_python_alone(bert: PooledModel, tmp_path: Path) -> None:
    for path in bert.directory.glob("tokenizer*"):
        path.unlink()
    words = ["convert", str(bert.directory), "-o", str(tmp_path / "checkpoint")]
    result = CliRunner().invoke(build_app(words[:1]), words, catch_exceptions=False)
    assert "token ids only, in Python (LLM); inflight serve refuses it" in result.output


def test_only_what_generates_is_sent_to_transformers(bert: PooledModel) -> None:
    for named, kind, known in (
        ("BertForMultipleChoice", "bert", False),
        ("XGLMForCausalLM", "xglm", True),
        ("NobodysForCausalLM", "nobodys", False),
    ):
        changed(bert.directory, "config.json", architectures=[named], model_type=kind)
        (bert.directory / "modules.json").unlink(missing_ok=True)
        with pytest.raises(ModelError, match=f"{named} is not supported") as raised:
            convert_model(bert.directory, bert.directory.parent / "refused")
        assert ("--target transformers" in str(raised.value.hint)) == known
