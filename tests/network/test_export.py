"""`inflight export`: the network with its weights, run as the page says, with transformers as the judge."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from inflight.build.export import export_onnx
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.errors import InflightError
from tests.models.random_models import random_shape
from tests.models.schemes import quantizing
from tests.network.support import ALL_FAMILIES, Case, Floats, LinearRunner, make_case, random_chunks, relative_error
from tests.paths import DOCS, ROOT

pytestmark = pytest.mark.network

LENGTH = 96
COMMAND = [sys.executable, "-c", "from inflight.cli.main import main; main()"]


def _inflight(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, check=False, cwd=ROOT)


def _case(
    tmp_path: Path, rng: np.random.Generator, seed: int, families: Sequence[str] = ALL_FAMILIES, **options: Any
) -> Case:
    dtype = torch.bfloat16 if rng.random() < 0.5 else torch.float32
    return make_case(tmp_path, random_shape(rng, str(rng.choice(families))), seed, dtype, **options)


def test_what_the_command_writes_gives_the_logits_of_transformers(
    tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    case = _case(tmp_path, rng, seed)
    out = tmp_path / "onnx"
    done = _inflight("export", case.checkpoint.directory, "--onnx", out, "--max-seq-len", LENGTH)
    assert done.returncode == 0, done.stderr
    assert "opset 24" in done.stdout and f"caches of {LENGTH} tokens" in done.stdout
    onnx.checker.check_model(out / "model.onnx")
    session = onnxruntime.InferenceSession(out / "model.onnx")
    caches = {
        each.name: np.zeros([1, *each.shape[1:]], np.float32)
        for each in session.get_inputs()
        if each.name.startswith("past_")
    }
    tokens = rng.integers(0, case.checkpoint.config.vocab_size, LENGTH)
    rows: list[Floats] = []
    for chunk in random_chunks(rng, tokens):
        start = sum(len(each) for each in rows)
        inputs = {
            "token_ids": chunk[None],
            "positions": np.arange(start, start + len(chunk))[None],
            "write_index": np.array([start]),
        }
        logits, *presents = session.run(None, {**inputs, **caches})
        caches = dict(zip(caches, presents, strict=True))
        rows.append(logits[0])
    assert relative_error(np.concatenate(rows), case.expected(tokens)) < 1e-4


@pytest.mark.parametrize("scheme", ["int8_wo", "int4_wo", "nf4", "fp8_rowwise"])
def test_quantized_weights_are_those_of_the_network_that_engines_are_built_from(
    scheme: str, tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    case = _case(tmp_path, rng, seed, ("llama",), **quantizing(scheme, 32))
    exported = export_onnx(case.checkpoint.directory, tmp_path / "onnx", max_seq_len=LENGTH)
    assert exported.quantized
    tokens = rng.integers(0, case.checkpoint.config.vocab_size, 20)
    expected = LinearRunner(case.checkpoint, LENGTH).run([tokens])
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(exported.network, options)
    caches = {
        each.name: np.zeros([1, *each.shape[1:]], np.float32)
        for each in session.get_inputs()
        if each.name.startswith("past_")
    }
    inputs = {"token_ids": tokens[None], "positions": np.arange(20)[None], "write_index": np.array([0])}
    found = session.run(["logits"], {**inputs, **caches})[0][0]
    np.testing.assert_array_equal(found, expected)


def test_the_page_s_own_lines_run(tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    case = _case(tmp_path, rng, seed)
    export_onnx(case.checkpoint.directory, tmp_path / "onnx-model", max_seq_len=LENGTH)
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "formats" / "onnx.md").read_text(), re.DOTALL)
    (tmp_path / "run.py").write_text(code + "print(tokens)\n")
    ran = subprocess.run([sys.executable, "run.py"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    tokens = json.loads(ran.stdout)
    logits = case.expected(tokens)
    for place in range(3, len(tokens)):
        row = logits[place - 1]
        assert row.max() - row[tokens[place]] <= 1e-4 * np.abs(row).max()


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    case = _case(tmp_path, rng, seed)
    one, two = (export_onnx(case.checkpoint.directory, tmp_path / name, max_seq_len=LENGTH) for name in ("one", "two"))
    assert [path.name for path in one.files] == [path.name for path in two.files]
    for first, second in zip(one.files, two.files, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name


def test_refusals_leave_what_was_there(tmp_path: Path, rng: np.random.Generator, seed: int) -> None:
    case = _case(tmp_path, rng, seed, ("llama",))
    checkpoint, out = case.checkpoint.directory, tmp_path / "onnx"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for flags, said in (([], "already exists"), (["--force"], "has no model.onnx")):
        refused = _inflight("export", checkpoint, "--onnx", out, *flags)
        assert refused.returncode == 1 and said in refused.stderr and "Traceback" not in refused.stderr
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    positions = case.checkpoint.config.max_position_embeddings or 0
    with pytest.raises(InflightError, match=f"the model knows {positions} positions"):
        export_onnx(checkpoint, tmp_path / "long", max_seq_len=positions + 1)
    convert_model(tmp_path / "model", tmp_path / "ranks", ConvertOptions(pp_size=2, progress=False))
    with pytest.raises(InflightError, match="split over 2 ranks"):
        export_onnx(tmp_path / "ranks", tmp_path / "split")
    with pytest.raises(InflightError, match=r"no directory|config\.json"):
        export_onnx(tmp_path / "nowhere", tmp_path / "nothing")
    assert {path.name for path in tmp_path.iterdir()} <= {"onnx", "model", "checkpoint", "ranks", "tokens.jsonl"}


def test_an_export_that_fails_leaves_nothing_and_force_replaces_one(
    tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    case = _case(tmp_path, rng, seed)
    checkpoint, out = case.checkpoint.directory, tmp_path / "onnx"
    export_onnx(checkpoint, out, max_seq_len=LENGTH)
    with pytest.raises(InflightError, match="already exists"):
        export_onnx(checkpoint, out, max_seq_len=LENGTH)
    again = export_onnx(checkpoint, out, max_seq_len=LENGTH - 16, overwrite=True)
    (graph,) = (path for path in again.files if path.suffix == ".onnx")
    caches = [each for each in onnx.load(graph, load_external_data=False).graph.input if each.name == "past_key.0"]
    assert caches[0].type.tensor_type.shape.dim[2].dim_value == LENGTH - 16
