"""What a calibration keeps while it runs: on a full disk, damaged, and beside another one of the same model."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inflight.convert.api import convert_model
from inflight.convert.calibration.layer_cache import cache_directory
from inflight.convert.options import ConvertOptions
from inflight.files.array_files import DamagedFile, mapped_array, read_arrays, write_arrays
from tests.models.hf_files import random_tensors, tiny_config, write_model
from tests.models.schemes import calibrated_on
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("own_cache")]

COMMAND = [sys.executable, "-c", "from inflight.cli.main import main; main()", "convert"]
SCHEME = "int4_gptq"


@pytest.fixture
def model(tmp_path: Path, rng: np.random.Generator) -> Path:
    config = tiny_config(hidden_size=64, intermediate_size=128)
    write_model(tmp_path / "model", config, random_tensors(config, rng))
    return tmp_path / "model"


def command(model: Path, output: Path) -> list[str]:
    text = calibrated_on(model, SCHEME)["calibration_text"]
    return [*COMMAND, str(model), "--quantize", SCHEME, "--calib-dataset", str(text), "-o", str(output)]


def convert(model: Path, output: Path) -> bytes:
    text = calibrated_on(model, SCHEME)
    convert_model(model, output, ConvertOptions.model_validate({"quantize": SCHEME, "progress": False} | text))
    return (output / "rank0.safetensors").read_bytes()


def test_arrays_of_a_file_come_back_and_a_file_that_was_cut_is_damaged(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    arrays = [
        rng.integers(-128, 128, rng.integers(0, 5, int(rng.integers(0, 4)))).astype(dtype)
        for dtype in rng.choice(["int8", "float32", "float64"], int(rng.integers(1, 5)))
    ]
    path = tmp_path / "arrays.npy"
    write_arrays(path, arrays)
    for found, given in zip(read_arrays(path), arrays, strict=True):
        assert found.dtype == given.dtype
        np.testing.assert_array_equal(found, given)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    write_arrays(path, [np.arange(100)])
    np.testing.assert_array_equal(mapped_array(path), np.arange(100))
    path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size)])
    for read in (read_arrays, mapped_array):
        with pytest.raises(DamagedFile, match=r"arrays\.npy is damaged"):
            read(path)


def test_a_full_disk_is_named_where_it_is(tmp_path: Path) -> None:
    """The data of NumPy's own functions are written in C, whose errors have no number."""
    small = subprocess.run(
        [sys.executable, "-c", WRITES, str(tmp_path / "arrays.npy")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert small.stdout == f"{errno.EFBIG} {tmp_path}\n", small.stderr
    assert not list(tmp_path.iterdir())


WRITES = """
import sys
from pathlib import Path
import numpy as np
from inflight.files.array_files import write_arrays
try:
    write_arrays(Path(sys.argv[1]), [np.zeros(3), np.zeros(100_000)])
except OSError as error:
    print(error.errno, error.filename)
"""


def test_a_cache_on_a_full_disk_ends_in_a_message_that_names_it(model: Path, own_cache: Path) -> None:
    result = subprocess.run(
        command(model, model.parent / "out"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        # Less than the levels of a matrix take.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000)),
    )
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
    assert f"error: {own_cache}" in result.stderr and "Free some space" in result.stderr
    assert not (model.parent / "out").exists() and not list(own_cache.rglob("*.partial"))


def test_streams_that_are_damaged_are_computed_again(
    model: Path, own_cache: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = convert(model, model.parent / "whole")
    with monkeypatch.context() as patched:
        patched.setattr("inflight.convert.calibration.run.expert_matrices", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            convert(model, model.parent / "interrupted")
    (streams,) = own_cache.glob("*/streams-*.npy")
    streams.write_bytes(streams.read_bytes()[: rng.integers(streams.stat().st_size)])
    assert convert(model, model.parent / "again") == whole
    assert not list(own_cache.iterdir())


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_same_calibration_twice_at_once_gives_the_same_twice(model: Path, own_cache: Path) -> None:
    outputs = [model.parent / name for name in ("first", "second", "third")]
    running = [subprocess.Popen(command(model, output), stderr=subprocess.PIPE, text=True) for output in outputs]
    try:
        for process in running:
            _, errors = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()
            process.wait()
    first, *others = [(output / "rank0.safetensors").read_bytes() for output in outputs]
    assert all(other == first for other in others)
    assert not list(own_cache.iterdir())


def test_a_cache_directory_has_one_user_and_stays_if_that_fails(tmp_path: Path) -> None:
    with cache_directory(tmp_path, "key") as mine:
        with cache_directory(tmp_path, "key") as others:
            assert others != mine
        assert mine.exists() and not others.exists()
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), cache_directory(tmp_path, "key") as mine:
        (mine / "kept").touch()
        raise KeyboardInterrupt
    with cache_directory(tmp_path, "key") as again:
        assert os.listdir(again) == ["kept"]
