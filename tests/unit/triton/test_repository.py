"""Writing a Triton model repository and finding what is wrong with one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from inflight.errors import EngineError, InflightError
from inflight.runtime.scheduler.admission import Waiting
from inflight.triton_backend.launch.repository import MODELS, TEMPLATES, RepositoryOptions, write_repository
from inflight.triton_backend.launch.repository_check import check_repository
from inflight.triton_backend.launch.template_variables import VARIABLES, check_overrides, parse_overrides
from inflight.triton_backend.launch.unary_models import UNARY_MODELS
from inflight.triton_backend.tensorrt_llm.model import scheduler_config
from inflight.triton_backend.tensorrt_llm.refused_inputs import FEATURE_OF_INPUT, NEUTRAL_VALUES
from inflight.triton_backend.wire.triton_api import ModelSettings
from tests.engines.serving_engines import write_null_engine

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_null_engine(tmp_path_factory.mktemp("engine") / 'an "odd" name', max_batch_size=7)


def config(repository: Path, model: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def as_dict(config: model_config_pb2.ModelConfig) -> dict[str, Any]:
    """As Triton gives it to a model."""
    found: dict[str, Any] = json_format.MessageToDict(config, preserving_proto_field_name=True)
    return found


def test_a_written_repository_has_no_placeholder_and_no_problem(engine: Path, tmp_path: Path) -> None:
    written = write_repository(engine, tmp_path / "models")
    assert check_repository(written.path) == []
    for model in MODELS:
        assert "${" not in (written.path / model / "config.pbtxt").read_text()
        assert config(written.path, model).max_batch_size == 7
    parameters = config(written.path, "tensorrt_llm").parameters
    assert parameters["gpt_model_path"].string_value == str(engine)
    assert parameters["tokenizer_dir"].string_value == str(engine / "tokenizer")
    assert config(written.path, "tensorrt_llm").model_transaction_policy.decoupled


def test_overrides_in_fill_templates_form_replace_what_the_engine_says(engine: Path, tmp_path: Path) -> None:
    line = "triton_max_batch_size:3,decoupled_mode:False,max_tokens_in_paged_kv_cache:2560,tokenizer_dir:/a\\,b"
    written = write_repository(engine, tmp_path / "models", RepositoryOptions(parse_overrides(line)))
    core = config(written.path, "tensorrt_llm")
    assert core.max_batch_size == 3
    assert not core.model_transaction_policy.decoupled
    assert core.parameters["max_tokens_in_paged_kv_cache"].string_value == "2560"
    assert core.parameters["tokenizer_dir"].string_value == "/a,b"


def test_what_schedules_is_read_from_the_repository(engine: Path, tmp_path: Path) -> None:
    line = "batch_scheduler_policy:MAX_UTILIZATION,max_queue_size:3,max_waiting_tokens:7,enable_kv_cache_reuse:false"
    for place, overrides, waiting in (
        ("a", line, Waiting(0.3, 7)),
        ("b", "waiting_served_ratio:1.5", Waiting(1.5, 20)),
    ):
        written = write_repository(engine, tmp_path / place, RepositoryOptions(parse_overrides(overrides)))
        as_json = json.dumps(as_dict(config(written.path, "tensorrt_llm")))
        settings = ModelSettings({"model_config": as_json, "model_name": "tensorrt_llm", "model_version": "1"})
        found = scheduler_config(settings)
        assert found.waiting == waiting
        assert (found.max_queue_size, found.enable_prefix_caching) == ((3, False) if place == "a" else (0, True))
    with pytest.raises(InflightError, match="waiting_served_ratio takes a number, 0 or more"):
        check_overrides({"waiting_served_ratio": "nan"})


def test_a_decoupled_repository_has_models_for_unary_clients_over_the_same_engine(engine: Path, tmp_path: Path) -> None:
    repository = write_repository(engine, tmp_path / "models").path
    for model, decoupled in UNARY_MODELS.items():
        unary, known = config(repository, model), config(repository, decoupled)
        assert not unary.model_transaction_policy.decoupled
        for kind in ("input", "output"):
            assert [t.name for t in getattr(unary, kind)] == [t.name for t in getattr(known, kind)]
    engines = [
        model.name for model in repository.iterdir() if "gpt_model_path" in config(repository, model.name).parameters
    ]
    assert sorted(engines) == ["preprocessing", "tensorrt_llm"]
    steps = [step.model_name for step in config(repository, "ensemble_unary").ensemble_scheduling.step]
    assert steps == ["preprocessing", "tensorrt_llm_unary", "postprocessing"]
    file = repository / "tensorrt_llm_unary" / "config.pbtxt"
    file.write_text(file.read_text().replace('name: "runtime_top_k"', 'name: "top_k"'))
    assert [problem.key for problem in check_repository(repository)] == ["runtime_top_k"]


def test_a_repository_that_is_not_decoupled_has_the_known_names_alone(engine: Path, tmp_path: Path) -> None:
    repository = write_repository(engine, tmp_path / "m", RepositoryOptions({"decoupled_mode": "false"})).path
    assert {model.name for model in repository.iterdir()} == set(MODELS)


def test_an_unknown_key_is_an_error_that_names_the_closest(rng: np.random.Generator) -> None:
    name = str(rng.choice([name for name in VARIABLES if len(name) > 10]))
    position = int(rng.integers(1, len(name)))
    with pytest.raises(InflightError, match=f'closest is "{name}"'):
        check_overrides({name[:position] + "q" + name[position:]: "1"})


@pytest.mark.parametrize(
    "entry",
    [
        "max_beam_width:0",
        "decoupled_mode:maybe",
        "medusa_choices:1",
        "max_queue_size:-1",
        "tensorrt_llm_model_name:other",
        "max_tokens_in_paged_kv_cache:10",
        "kv_cache_bytes:1",
    ],
)
def test_a_value_that_cannot_be_honoured_is_refused_and_never_written(engine: Path, tmp_path: Path, entry: str) -> None:
    with pytest.raises(InflightError, match="is not possible"):
        write_repository(engine, tmp_path / "models", RepositoryOptions(parse_overrides(entry)))
    assert not (tmp_path / "models").exists()


def test_a_setting_without_effect_is_accepted_and_said(engine: Path, tmp_path: Path) -> None:
    overrides = parse_overrides("triton_backend:tensorrtllm,gpu_device_ids:0,cuda_graph_mode:true")
    notes = write_repository(engine, tmp_path / "models", RepositoryOptions(overrides)).notes
    assert [name for name in overrides if any(name in note for note in notes)] == list(overrides)


def test_a_directory_that_is_no_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError):
        write_repository(tmp_path, tmp_path / "models")


@pytest.mark.parametrize(
    ("model", "old", "new", "key"),
    [
        ("ensemble", "max_batch_size: 7", "max_batch_size: ${triton_max_batch_size}", "triton_max_batch_size"),
        ("tensorrt_llm", 'backend: "python"', 'backend: "tensorrtllm"', "backend"),
        ("tensorrt_llm", "decoupled: true", "decoupled: false", "model_transaction_policy"),
        ("postprocessing", "TYPE_STRING", "TYPE_STRNG", "line"),
        ("preprocessing", 'name: "STOP_WORDS_DICT"', 'name: "STOP_WORD_DICT"', "STOP_WORDS_DICT"),
        ("postprocessing", "/tokenizer", "/tokeniser", "tokenizer_dir"),
        ("tensorrt_llm_bls", 'name: "tensorrt_llm_bls"', 'name: "bls"', "name"),
        ("tensorrt_llm", "max_batch_size: 7", "max_batch_size: 0", "max_batch_size"),
    ],
)
def test_a_problem_names_its_file_and_key_and_a_fix(
    engine: Path, tmp_path: Path, model: str, old: str, new: str, key: str
) -> None:
    repository = write_repository(engine, tmp_path / "models").path
    file = repository / model / "config.pbtxt"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    found = [problem for problem in check_repository(repository) if key in problem.key]
    assert found
    assert all(problem.fix and problem.message for problem in found)
    assert model in str(found[0].file) or key == "model_transaction_policy"


def test_every_parameter_of_a_written_repository_is_checked_as_make_repo_checks_its_variable(
    engine: Path, tmp_path: Path
) -> None:
    """In the file as it is at load: an edited one too."""
    repository = write_repository(engine, tmp_path / "models").path
    for model in (*MODELS, *UNARY_MODELS):
        file = repository / model / "config.pbtxt"
        written = file.read_text()
        template = (TEMPLATES / UNARY_MODELS.get(model, model) / "config.pbtxt").read_text()
        good, edited = config(repository, model), config(repository, model)
        wrong = []
        for key in good.parameters:
            found = re.search(rf'key: "{key}" value: {{ string_value: "\${{(\w+)}}"', template)
            if found is None or VARIABLES[found[1]].check("perhaps"):
                continue
            wrong.append(key)
            edited.parameters[key].string_value = "perhaps"
            if key != "tensorrt_llm_model_name":
                one = {**as_dict(good)["parameters"], key: {"string_value": "perhaps"}}
                args = {"model_config": json.dumps({**as_dict(good), "parameters": one})}
                with pytest.raises(EngineError, match=f'{model}: {key} is "perhaps"; it takes '):
                    ModelSettings({**args, "model_name": model, "model_version": "1"})
        file.write_text(text_format.MessageToString(edited))
        assert sorted(problem.key for problem in check_repository(repository)) == sorted(wrong), model
        file.write_text(written)


def test_a_missing_model_and_a_missing_repository_are_problems(engine: Path, tmp_path: Path) -> None:
    repository = write_repository(engine, tmp_path / "models").path
    (repository / "tensorrt_llm" / "1" / "model.py").unlink()
    assert [problem.key for problem in check_repository(repository)] == ["model.py"]
    assert len(check_repository(tmp_path / "elsewhere")) == 1


def test_every_refused_input_is_one_that_some_model_declares(engine: Path, tmp_path: Path) -> None:
    repository = write_repository(engine, tmp_path / "models").path
    declared = {tensor.name for model in MODELS for tensor in config(repository, model).input}
    assert set(NEUTRAL_VALUES) | set(FEATURE_OF_INPUT) <= declared


def test_every_wire_of_the_ensemble_ends_in_declared_tensors(engine: Path, tmp_path: Path) -> None:
    repository = write_repository(engine, tmp_path / "models").path
    ensemble = config(repository, "ensemble")
    made = {tensor.name for tensor in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        inner = config(repository, step.model_name)
        assert set(step.input_map) <= {tensor.name for tensor in inner.input}
        assert set(step.output_map) <= {tensor.name for tensor in inner.output}
        assert set(step.input_map.values()) <= made
        made |= set(step.output_map.values())
    assert {tensor.name for tensor in ensemble.output} <= made
