"""An option that would have no effect is refused: options by schemes, targets and what is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from inflight.build.engine import plan_engine
from inflight.build.registry import make_recipe
from inflight.cli.main import build_app
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.convert.quantization.schemes import RECIPES
from inflight.errors import BuildError, InflightError, ModelError
from tests.engines.null_engine import write_null_engine
from tests.models.hf_files import random_tensors, tiny_config, write_model
from tests.models.schemes import calibrated_on

pytestmark = pytest.mark.unit


@pytest.fixture
def model(tmp_path: Path, rng: np.random.Generator) -> Path:
    config = tiny_config(hidden_size=32, intermediate_size=64)
    return write_model(tmp_path / "model", config, random_tensors(config, rng))


def run(verb: str, *arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(build_app([verb]), [verb, *map(str, arguments)])
    text = " ".join((result.output + str(result.exception or "")).replace("│", " ").split())
    return result.exit_code, text


@pytest.mark.parametrize("scheme", [None, *RECIPES])
@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--group-size", 32),
        ("--group-size", 128),
        ("--exclude-modules", "lm_head"),
        ("--exclude-modules", "*.mlp.projj"),
        ("--embedding-sharding-dim", 1),
        ("--use-parallel-embedding", None),
    ],
)
def test_convert_refuses_what_it_would_not_read(
    tmp_path: Path, model: Path, scheme: str | None, flag: str, value: object
) -> None:
    grouped = scheme is not None and RECIPES[scheme].weights.scale == "group"
    read = (flag == "--group-size" and grouped) or (value == "lm_head" and scheme is not None)
    quantize = [] if scheme is None else ["--quantize", scheme]
    given = [flag] if value is None else [flag, value]
    calibration = calibrated_on(model, scheme)
    given += ["--calib-dataset", calibration["calibration_text"]] if calibration else []
    code, text = run("convert", model, "-o", tmp_path / "out", *quantize, *given)
    assert (code == 0) == read, text
    assert read or flag in text
    assert (tmp_path / "out").exists() == read


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--calib-dataset", __file__),
        ("--calib-size", 3),
        ("--calib-max-seq-length", 64),
        ("--random-seed", 0),
        ("--smoothquant", 0.4),
    ],
)
def test_options_of_a_calibration_that_is_not_made_are_named_as_they_were_given(
    tmp_path: Path, model: Path, flag: str, value: object
) -> None:
    code, text = run("convert", model, "-o", tmp_path / "out", "--quantize", "int8_wo", flag, value)
    assert code != 0
    assert f"{flag} has no effect here" in text


@pytest.mark.parametrize("scheme", [None, *RECIPES])
@pytest.mark.parametrize(
    "given",
    [
        {"group_size": 128},
        {"exclude_modules": ("lm_head",)},
        {"embedding_sharding_dim": 0},
        {"use_parallel_embedding": True},
        {"use_parallel_embedding": True, "embedding_sharding_dim": 1},
        {"tp_size": 2, "embedding_sharding_dim": 1},
    ],
    ids=str,
)
def test_python_refuses_what_the_command_line_refuses(
    tmp_path: Path, model: Path, scheme: Any, given: dict[str, Any]
) -> None:
    grouped = scheme is not None and RECIPES[scheme].weights.scale == "group"
    options = ConvertOptions(quantize=scheme, progress=False, **calibrated_on(model, scheme), **given)
    if (grouped and "group_size" in given) or (scheme is not None and "exclude_modules" in given):
        convert_model(model, tmp_path / "out", options)
        return
    with pytest.raises(InflightError, match="has no effect here"):
        convert_model(model, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


# For every field of every target's recipe, values that are not its default.
OTHER_VALUES: dict[str, list[Any]] = {
    "max_batch_size": [3],
    "max_seq_len": [48],
    "max_num_tokens": [96],
    "max_logit_rows": [65],
    "tokens_per_block": [16, 64],
    "kv_cache_dtype": ["float16", "int8", "fp8", "int4"],
    "kv_cache_type": ["continuous", "paged"],
    "cpu": [("x86-64-v3", "neoverse_n1")],
    "sm": [("89",)],
    "full": [True],
    "portable": [True],
    "weights": ["plan", "inputs"],
}
# What they say needs no plan: the compiler is only called when an engine is written.
ONLY_WRITTEN = {"cxx"}


@pytest.mark.parametrize("target", ["cpu", "reference", "tensorrt"])
@pytest.mark.parametrize(
    "scheme", [None, "drawn", "another", *(pytest.param(each, marks=pytest.mark.slow) for each in RECIPES)]
)
def test_every_flag_of_a_build_changes_the_plan_or_is_refused(
    tmp_path: Path, model: Path, target: str, scheme: Any, rng: np.random.Generator
) -> None:
    """Of two schemes that are drawn in each run. Where there is no module to plan with, a flag is refused for another
    reason than the plain recipe is.
    """
    scheme = str(rng.choice(list(RECIPES))) if scheme in ("drawn", "another") else scheme
    text = calibrated_on(model, scheme)
    convert_model(model, tmp_path / "ckpt", ConvertOptions(dtype="bfloat16", quantize=scheme, progress=False, **text))

    def plan(**fields: Any) -> Any:
        try:
            facts = plan_engine(tmp_path / "ckpt", make_recipe(target, **{"max_seq_len": 32, **fields}))
        except BuildError as error:
            return error.message
        return facts.limits, facts.target.own, facts.target.kv_cache, facts.target.memory

    plain = plan()
    names = make_recipe(target).__class__.model_fields.keys() - ONLY_WRITTEN
    assert names <= OTHER_VALUES.keys()
    if target == "tensorrt":  # beyond its refusals a plan needs the module
        names = {"tokens_per_block", "kv_cache_dtype", "kv_cache_type"}
    for name in sorted(names):
        for value in OTHER_VALUES[name]:
            default = name == "kv_cache_type" and value == ("continuous" if target == "tensorrt" else "paged")
            assert (plan(**{name: value}) == plain) == default, f"--{name} {value}"


def test_parallel_embeddings_are_read_where_there_are_ranks(tmp_path: Path, model: Path) -> None:
    flags = ["--tp-size", 2, "--use-parallel-embedding", "--embedding-sharding-dim", 1]
    assert run("convert", model, "-o", tmp_path / "out", *flags)[0] == 0


def test_patterns_are_refused_one_by_one(tmp_path: Path, model: Path) -> None:
    options = ConvertOptions(quantize="int8_wo", exclude_modules=("lm_head", "*.attn.*", "*.mlp.*", "model.layers.0*"))
    with pytest.raises(ModelError) as caught:
        convert_model(model, tmp_path / "out", options)
    assert "'*.attn.*' matches no module" in str(caught.value)
    assert "'model.layers.0*' matches no module" in str(caught.value)
    assert "'lm_head' matches" not in str(caught.value) and "'*.mlp.*' matches" not in str(caught.value)


@pytest.mark.parametrize("target", ["cpu", "reference"])
def test_build_engine_changes_no_value_that_was_given(tmp_path: Path, model: Path, target: str) -> None:
    convert_model(model, tmp_path / "ckpt", ConvertOptions())
    for fields, message in (
        ({"max_num_tokens": 3, "max_batch_size": 4}, "--max-num-tokens 3: at least --max-batch-size, 4"),
        ({"max_num_tokens": 63}, "--max-num-tokens 63: at least --max-batch-size, 64"),
        ({"max_num_tokens": 80, "max_logit_rows": 81}, "--max-logit-rows 81: at most --max-num-tokens, 80"),
    ):
        with pytest.raises(BuildError, match=message):
            plan_engine(tmp_path / "ckpt", make_recipe(target, **fields))
    wide = plan_engine(tmp_path / "ckpt", make_recipe(target, max_batch_size=5000)).limits
    assert wide.max_num_tokens == wide.max_logit_rows == 5000


def test_the_reference_target_has_float32_or_the_numbers_of_a_quantized_cache(tmp_path: Path, model: Path) -> None:
    convert_model(model, tmp_path / "ckpt", ConvertOptions(dtype="bfloat16"))
    for dtype in ("auto", "float32"):
        recipe = make_recipe("reference", kv_cache_dtype=dtype)
        assert plan_engine(tmp_path / "ckpt", recipe).target.kv_cache.dtype == "float32"
    for asked, dtype in (("int8", "int8"), ("fp8", "float8_e4m3fn"), ("int4", "int4")):
        recipe = make_recipe("reference", kv_cache_dtype=asked)
        assert plan_engine(tmp_path / "ckpt", recipe).target.kv_cache.dtype == dtype
    for dtype in ("bfloat16", "float16"):
        with pytest.raises(BuildError, match=f"--kv-cache-dtype {dtype}: reference's KV cache has the type float32,"):
            plan_engine(tmp_path / "ckpt", make_recipe("reference", kv_cache_dtype=dtype))


@pytest.mark.parametrize(
    "flags",
    [
        ("--max-model-len", 64),
        ("--dtype", "float16"),
        ("--revision", "main"),
        ("--target", "cpu"),
        ("--kv-cache-dtype", "int8", "--block-size", 32),
        ("--quantize", "int8_wo"),
        ("--quantize", "eetq", "--group-size", 64),
    ],
)
def test_serve_refuses_flags_of_a_build_that_differ_from_the_engine(tmp_path: Path, flags: tuple[object, ...]) -> None:
    code, text = run("serve", write_null_engine(tmp_path / "engine"), *flags)
    names = {"--max-model-len": "--max-seq-len", "--block-size": "--tokens-per-block"}
    assert code != 0 and "can only be chosen when it is built" in text
    for flag in flags:
        if str(flag).startswith("--"):
            assert f"{names.get(str(flag), str(flag))} " in text


def test_serve_takes_flags_of_a_build_that_the_engine_has(tmp_path: Path) -> None:
    """What they all agree with comes to the next mistake, which is another one."""
    engine = write_null_engine(tmp_path / "engine")
    limits = ("--max-model-len", 512, "--max-num-seqs", 8, "--max-num-batched-tokens", 128, "--block-size", 16)
    kinds = ("--dtype", "float32", "--kv-cache-dtype", "float32", "--dequantize")
    for given in ((*limits, *kinds), ("--dtype", "auto", "--kv-cache-dtype", "auto")):
        code, text = run("serve", engine, *given, "--port", 80, "--http-port", 80)
        assert code != 0 and "--port and --http-port are both 80" in text


@pytest.mark.parametrize("verb", ["generate", "chat", "eval", "bench"])
def test_an_engine_cannot_be_dequantized(tmp_path: Path, verb: str) -> None:
    engine = write_null_engine(tmp_path / "engine")
    words = {"generate": (engine, "Once"), "bench": ("latency", engine)}.get(verb, (engine,))
    code, text = run(verb, *words, "--dequantize")
    assert code != 0 and "--dequantize can only be chosen when it is built" in text


def test_a_gguf_file_that_ends_at_once_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(InflightError, match=r"x\.gguf is truncated"):
        convert_model(str(tmp_path / "x.gguf"), tmp_path / "out")


def test_serve_refuses_a_tool_call_parser_that_is_not_there(tmp_path: Path) -> None:
    code, text = run("serve", write_null_engine(tmp_path / "engine"), "--tool-call-parser", "verse")
    assert code != 0 and "no tool call parser verse" in text
