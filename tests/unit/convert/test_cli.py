"""The flags of `inflight convert`, under the names that users of convert_checkpoint.py and vllm know."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from inflight.cli.main import build_app
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.errors import ModelError
from tests.models.hf_files import random_tensors, tiny_config, write_model
from tests.models.schemes import calibrated_on
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.unit


def convert(*arguments: object) -> Result:
    words = ["convert", *(str(argument) for argument in arguments)]
    return CliRunner().invoke(build_app(["convert"]), words, catch_exceptions=False)


@pytest.fixture
def model(tmp_path: Path, rng: np.random.Generator) -> Path:
    config = tiny_config()
    return write_model(tmp_path / "model", config, random_tensors(config, rng))


def test_old_and_new_spellings_of_the_flags_make_the_same_checkpoint(tmp_path: Path, model: Path) -> None:
    spellings = [
        (model, "--output-dir", tmp_path / "a", "--dtype", "bfloat16", "--tp-size", 2, "--pp-size", 3),
        ("--model_dir", model, "--output_dir", tmp_path / "b", "--dtype=bfloat16", "--tp_size", 2, "--pp_size", 3),
        (model, "-o", tmp_path / "c", "--dtype", "bfloat16", "--tensor-parallel-size", 2, "-pp", 3),
    ]
    for arguments in spellings:
        result = convert(*arguments)
        assert result.exit_code == 0, result.output
        assert "build-engine --checkpoint-dir" in result.output
    digests = {Checkpoint.open(tmp_path / name).sha256() for name in "abc"}
    assert len(digests) == 1
    assert Checkpoint.open(tmp_path / "a").config.mapping.world_size == 6


def test_the_model_and_the_output_must_be_given_once(tmp_path: Path, model: Path) -> None:
    for arguments in ((model, "--model-dir", model, "-o", tmp_path / "x"), ("-o", tmp_path / "x"), (model,)):
        assert convert(*arguments).exit_code == 2
    assert not (tmp_path / "x").exists()


def test_what_cannot_be_converted_ends_in_an_error_for_the_user(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ModelError, match="cannot be converted"):
        convert(model, "-o", tmp_path / "x", "--tp-size", 3)


def test_an_interrupted_command_leaves_a_whole_checkpoint_or_none(tmp_path: Path, rng: np.random.Generator) -> None:
    config = tiny_config(hidden_size=512, intermediate_size=4096, vocab_size=20000)
    write_model(tmp_path / "model", config, random_tensors(config, rng))
    command = ["convert", str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--tp-size", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from inflight.cli.main import main; main()", *command],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not any(tmp_path.glob(".out.*/rank0.safetensors")):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in errors
    left = {path.name for path in tmp_path.iterdir()} - {"model"}
    assert left <= {"out"}
    if left:
        Checkpoint.open(tmp_path / "out")


def test_quantization_has_the_spellings_of_the_old_scripts(tmp_path: Path, model: Path) -> None:
    spellings = [
        ("--quantize", "int4_wo", "--group-size", 64),
        ("--qformat", "int4_wo", "--awq_block_size", 64),
        ("--use_weight_only", "--weight_only_precision", "int4", "--group_size", 64),
    ]
    digests = set()
    for number, flags in enumerate(spellings):
        result = convert(model, "-o", tmp_path / str(number), *flags)
        assert result.exit_code == 0 and "int4_wo" in result.stdout
        digests.add(Checkpoint.open(tmp_path / str(number)).sha256())
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("flags", "algorithm"),
    [
        (("--quantize", "fp8"), "FP8_PER_CHANNEL_PER_TOKEN"),
        (("--use_fp8_rowwise",), "FP8_PER_CHANNEL_PER_TOKEN"),
        (("--use_fp8",), "FP8"),
        (("--qformat", "fp8_tensorwise"), "FP8"),
        (("--qformat", "w4a8_awq"), "W4A8_AWQ"),
    ],
)
def test_fp8_is_row_by_row_unless_its_other_form_is_asked_for(
    tmp_path: Path, model: Path, flags: tuple[str, ...], algorithm: str
) -> None:
    text = calibrated_on(model, "fp8")["calibration_text"]
    assert convert(model, "-o", tmp_path / "out", *flags, "--calib-dataset", text).exit_code == 0
    assert Checkpoint.open(tmp_path / "out").config.quantization.quant_algo == algorithm


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--quantize", "int4_wo", "--group-size", 48), "32, 64 or 128"),
        (("--quantize", "int8_wo", "--use-weight-only"), "not both"),
        (("--weight-only-precision", "int4"), "goes with"),
        (("--quantize", "int5"), "int4_w4a8"),
        (("--quantize", "nvfp4"), "Models that have it already keep their numbers"),
    ],
)
def test_quantization_flags_that_contradict_themselves_are_refused(
    tmp_path: Path, model: Path, flags: tuple[object, ...], message: str
) -> None:
    result = convert(model, "-o", tmp_path / "out", *flags)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split()).replace("│ ", "")
    assert not (tmp_path / "out").exists()
