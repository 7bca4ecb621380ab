"""scripts/compare/cuda, as far as it goes without a GPU: its cases fit the kernels, and it says why it does nothing."""

from __future__ import annotations

import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from inflight.errors import BuildError
from tests.kernel.gpu.support.cuda_launch import SPECS, interpret
from tests.paths import ROOT

SCRIPTS = ROOT / "scripts"
DTYPES = {
    # Its bits.
    "bf16": np.uint16,
    "fp16": np.float16,
    "fp32": np.float32,
    "i8": np.int8,
    "i32": np.int32,
    "i64": np.int64,
}

pytestmark = pytest.mark.kernel


@pytest.fixture
def bench_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    # A worker runs alone: its own folder is where it imports from.
    monkeypatch.syspath_prepend(str(SCRIPTS / "compare" / "workers"))


@pytest.mark.usefixtures("bench_path")
def test_every_case_gives_its_kernels_the_arguments_that_they_take() -> None:
    from compare.gpu.case import Case
    from compare.gpu.cases import all_cases
    from compare.gpu.models import TINY

    for case in (case for model in TINY for case in all_cases(model, 90)):
        assert case.moved > 0, case.name
        if not isinstance(case, Case):
            continue
        arrays = case.arrays()
        for call in case.calls:
            spec = SPECS[call.function]
            constants = spec.constants(call.variant, spec.tune(90, call.variant))
            function = getattr(sys.modules[spec.module], spec.function)
            assert {*spec.signature(call.variant), *constants} == set(function.arg_names), case.name
            for name, kind in spec.signature(call.variant).items():
                if kind.startswith("*"):
                    array = call.arrays.get(name, name)
                    assert arrays[array].dtype == DTYPES[kind[1:]], f"{case.name}: {array}"
                else:
                    assert name in call.scalars, f"{case.name}: {name}"
            extents = [value for axis in spec.grid for one in axis for value in (one.size, one.per)]
            missing = {value for value in extents if isinstance(value, str)} - {*call.sizes, *constants}
            assert not missing, f"{case.name}: {missing}"


@pytest.mark.usefixtures("bench_path")
def test_launches_of_a_mixture_hand_each_other_what_they_take() -> None:
    """Interpreted, of few rows: the sum of what each row's experts make of it."""
    from compare.gpu.cases import all_cases
    from compare.gpu.models import TINY

    mixture: Any = TINY[1]
    case: Any = next(case for case in all_cases(mixture, 90) if case.name.endswith("bf16, 16 rows"))
    arrays = {
        name: array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array
        for name, array in case.arrays().items()
    }
    for call in case.calls:
        names = [argument.name for argument in SPECS[call.function].arguments]
        given = {name: arrays[call.arrays.get(name, name)] for name in names if name not in call.scalars}
        interpret(call.function, call.variant, {**given, **call.scalars}, call.sizes)
    rows, gated, back = (arrays[name].astype(np.float64) for name in ("x", "fc_weight", "proj_weight"))
    gated = gated.reshape(mixture.experts, 2, mixture.size, mixture.hidden)
    up, gate = np.einsum("eund,rd->uren", gated, rows)
    made = np.einsum("ehn,ren->reh", back.reshape(mixture.experts, mixture.hidden, -1), gate / (1 + np.exp(-gate)) * up)
    # Logits are 4 and 0, and a row's weights are equal.
    expected = arrays["residual"] + (made * (arrays["logits"] > 0)[:, :, None]).sum(axis=1) / mixture.top_k
    # The interpreter cuts bfloat16 off.
    assert np.abs(arrays["y"] - expected).max() <= 0.02 * np.abs(expected).max()


@pytest.mark.usefixtures("bench_path")
def test_numbers_are_rounded_to_bfloat16_as_its_own_package_rounds(rng: np.random.Generator) -> None:
    from compare.gpu.case import _bits_of_bfloat16

    values = rng.standard_normal(1000).astype(np.float32)
    values[:500] = (values.view(np.uint32)[:500] & 0xFFFF0000 | 0x8000).view(np.float32)  # ties
    assert np.array_equal(_bits_of_bfloat16(values), values.astype(ml_dtypes.bfloat16).view(np.uint16))


@pytest.mark.usefixtures("bench_path")
def test_a_kit_whose_packages_are_not_all_there_is_not_made(tmp_path: Path) -> None:
    from compare.kit.complete import refuse_incomplete

    site = tmp_path / "site"
    site.mkdir()
    with pytest.raises(BuildError, match=r"do not import: ModuleNotFoundError: No module named 'numpy'"):
        parts = [(f"compare/{name}", b"") for name in ("__init__.py", "kit/__init__.py", "kit/parts/__init__.py")]
        refuse_incomplete([*parts, ("compare/kit/parts/machine.py", b"import numpy")], site, site, with_cuda=False)


@pytest.mark.usefixtures("bench_path")
def test_torch_is_asked_for_work_that_its_worker_knows() -> None:
    import torch_kernels
    from compare.gpu.cases import all_cases
    from compare.gpu.models import MIXTURES, MODELS

    peers = [case.peer for model in (*MODELS, *MIXTURES) for case in all_cases(model, 90) if case.peer]
    products = {"linear", "int_mm", "int4_mm", "scaled_mm", "greedy_projection", "experts"}
    assert {peer.work for peer in peers} == {"add_rms_norm", "swiglu", "attention", "greedy", "top_k_top_p"} | products
    for peer in peers:
        inspect.signature(getattr(torch_kernels, peer.work)).bind(None, **peer.arguments)


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
def test_without_a_gpu_it_refuses_in_one_sentence() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPTS), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "compare.gpu.run"]
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    missing = "No NVIDIA GPU" if importlib.util.find_spec("cuda") else "cuda-python is not installed"
    assert result.returncode == 1 and missing in result.stderr and "Traceback" not in result.stderr


@pytest.mark.usefixtures("bench_path")
def test_the_table_compares_with_the_limit_and_with_torch() -> None:
    from compare.gpu.results import Limits, Result, Run

    limits = Limits(2e12, {"bf16": 4e14})
    assert limits.least_seconds(2_000_000, 10, "bf16") == 1e-6
    assert limits.least_seconds(1, 4 * 10**9, "bf16") == 1e-5
    run = Run("card", {"triton": "3"}, limits, [Result("m", "norm", 2e-6, 1e-6, "eager", 3e-6)])
    assert "| norm | 2.0 | 1.0 | 50% | eager | 3.0 | 1.50 |" in run.markdown()
