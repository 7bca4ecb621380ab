"""A target of another package: installed as a user installs it, then built for, inspected and run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.errors import EngineError
from inflight.runtime import LLM, SamplingParams
from tests.engines.engine_files import edit_manifest
from tests.models.tiny_tokenizers import random_text
from tests.paths import DOCS, ROOT

pytestmark = pytest.mark.pipeline

TOY = ROOT / "tests" / "toy_target"
SCALE = -2.5
COMMAND = [sys.executable, "-c", "from inflight.cli.main import main; main()"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory to which pip has installed the toy's distribution."""
    place = tmp_path_factory.mktemp("outside")
    shutil.copytree(TOY, place / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", place / "site", place / "source"], check=True)
    return place / "site"


@pytest.fixture(scope="module")
def broken_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A distribution whose target imports a module that is not installed."""
    place = tmp_path_factory.mktemp("broken")
    (place / "broken_target.py").write_text("import module_of_mars\n")
    facts = place / "inflight_broken-3.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: inflight-broken\nVersion: 3.1\n")
    (facts / "entry_points.txt").write_text("[inflight.targets]\nbroken = broken_target:TARGET\n")
    return place


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, site: Path, embedded_model: Path) -> Path:
    """A directory with `model`, `checkpoint` and `engine`, which is the toy's."""
    place = tmp_path_factory.mktemp("toy")
    shutil.copytree(embedded_model, place / "model")
    convert_model(place / "model", place / "checkpoint", ConvertOptions(dtype="float32"))
    flags = ["--target", "toy", "--scale", str(SCALE), "--max-seq-len", "128"]
    built = inflight(site, "build-engine", "--checkpoint-dir", place / "checkpoint", "-o", place / "engine", *flags)
    assert built.returncode == 0, built.stderr
    assert "for toy" in built.stdout
    return place


def inflight(site: Path | None, *arguments: object) -> subprocess.CompletedProcess[str]:
    paths = [*([str(site)] if site is not None else []), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "COLUMNS": "200"}
    words = [*COMMAND, *map(str, arguments)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def bigrams(model: Path, token: int, count: int) -> list[int]:
    """The greedy continuation of a token by what the target says it computes, from the model's own matrices."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    embedding = loaded.get_input_embeddings().weight.detach().numpy()
    head = loaded.get_output_embeddings().weight.detach().numpy()
    tokens = [token]
    for _ in range(count):
        tokens.append(int(np.argmax(np.float32(SCALE) * (embedding[tokens[-1:]] @ head.T))))
    return tokens[1:]


def test_help_has_its_summary_and_its_flags_in_a_panel_of_their_own(site: Path) -> None:
    shown = inflight(site, "build-engine", "--help").stdout
    assert "toy: bigrams in NumPy" in re.sub(r"\W+", " ", shown).replace("toy bigrams", "toy: bigrams")
    assert "--scale" in shown[shown.index("Target toy") :]
    assert "Target toy" not in inflight(None, "build-engine", "--help").stdout


def test_its_engine_generates_what_it_computes(workplace: Path, site: Path, rng: np.random.Generator) -> None:
    prompt = random_text(rng)
    flags = ["--temperature", "0", "--max-tokens", "12", "--ignore-eos", "--json"]
    answered = inflight(site, "generate", workplace / "engine", prompt, *flags)
    assert answered.returncode == 0, answered.stderr
    answer = json.loads(answered.stdout)
    assert answer["outputs"][0]["token_ids"] == bigrams(workplace / "model", answer["prompt_token_ids"][-1], 12)


def test_the_llm_class_runs_it_and_reads_its_facts_strictly(
    workplace: Path, site: Path, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(site))
    prompt = rng.integers(3, 200, 7).tolist()
    with LLM(workplace / "engine") as llm:
        (output,) = llm.generate([prompt], SamplingParams(temperature=0, max_tokens=9, ignore_eos=True))
    assert list(output.outputs[0].token_ids) == bigrams(workplace / "model", prompt[-1], 9)
    shutil.copytree(workplace / "engine", tmp_path / "engine")
    edit_manifest(tmp_path / "engine", target_facts={"weights_file": "toy.npy", "scale": 1.0, "colour": "red"})
    with pytest.raises(EngineError, match=r"does not describe an engine: .*colour"):
        LLM(tmp_path / "engine")


def test_inspect_shows_its_facts_with_or_without_the_package(workplace: Path, site: Path) -> None:
    for place in (site, None):
        shown = json.loads(inflight(place, "inspect", workplace / "engine", "--json").stdout)
        assert shown["facts"]["target"] == "toy" and shown["facts"]["recipe"]["scale"] == SCALE
        assert shown["facts"]["weights_file"] == "toy.npy" and shown["facts"]["scale"] == SCALE


def test_a_build_gives_the_same_bytes_again(workplace: Path, site: Path, tmp_path: Path) -> None:
    flags = ["--target", "toy", "--scale", str(SCALE), "--max-seq-len", "128", "-o", tmp_path / "again"]
    built = inflight(site, "build-engine", "--checkpoint-dir", workplace / "checkpoint", *flags)
    assert built.returncode == 0, built.stderr
    names = sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file())
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (workplace / "engine" / name).read_bytes(), name


def test_doctor_lists_it(site: Path) -> None:
    assert "toy" in inflight(site, "doctor").stdout
    assert "toy" not in inflight(None, "doctor").stdout


@pytest.mark.parametrize(
    ("flags", "reasons"),
    [
        (["--target", "cpu", "--scale", "2"], ["--scale: it is for --target toy, and this is cpu"]),
        (["--target", "toy", "--sm", "89"], ["--sm: it is for --target cuda or tensorrt, and this is toy"]),
        (["--target", "toy", "--kv-cache-dtype", "int8"], ["--kv-cache-dtype int8", "has the type float32"]),
        (["--target", "toy", "--kv-cache-type", "continuous"], ["it is for --target tensorrt", "of toy is paged"]),
        (["--target", "mars"], ["no target mars", "cpu, cuda, reference, tensorrt, transformers, toy"]),
    ],
)
def test_what_it_cannot_take_is_refused_by_name(
    flags: list[str], reasons: list[str], workplace: Path, site: Path, tmp_path: Path
) -> None:
    asked = ["build-engine", "--checkpoint-dir", workplace / "checkpoint", "-o", tmp_path / "engine", *flags]
    refused = inflight(site, *asked)
    assert refused.returncode in (1, 2) and "Traceback" not in refused.stderr
    said = re.sub(r"[\s│]+", " ", refused.stderr)
    assert all(reason in said for reason in reasons), said
    assert not (tmp_path / "engine").exists()


def test_a_checkpoint_of_another_type_is_refused(workplace: Path, site: Path, tmp_path: Path) -> None:
    convert_model(workplace / "model", tmp_path / "half", ConvertOptions(dtype="bfloat16"))
    flags = ["--target", "toy", "--kv-cache-dtype", "float32", "-o", tmp_path / "engine"]
    refused = inflight(site, "build-engine", "--checkpoint-dir", tmp_path / "half", *flags)
    assert "a checkpoint in bfloat16: target toy takes float32" in refused.stderr


def test_an_engine_whose_package_is_not_here_says_so(workplace: Path) -> None:
    refused = inflight(None, "generate", workplace / "engine", "Hello")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "There is no executor of target toy" in refused.stderr and "inflight.executors" in refused.stderr


def test_a_target_that_cannot_be_loaded_says_why_and_troubles_no_other(
    broken_site: Path, workplace: Path, tmp_path: Path
) -> None:
    asked = ["build-engine", "--checkpoint-dir", workplace / "checkpoint", "-o", tmp_path / "engine", "--target"]
    refused = inflight(broken_site, *asked, "broken", "--its-own", "7")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "The target broken of inflight-broken 3.1 cannot be loaded" in refused.stderr
    assert "No module named 'module_of_mars'" in refused.stderr and "There is no target" not in refused.stderr
    planned = inflight(broken_site, *asked, "cpu", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    unknown = inflight(broken_site, *asked, "cpu", "--its-own", "7")
    assert unknown.returncode == 2 and "--its-own" in unknown.stderr


def test_a_module_that_its_build_lacks_is_named_with_how_to_install_it(
    site: Path, workplace: Path, tmp_path: Path
) -> None:
    shutil.copytree(site, tmp_path / "site")
    build = tmp_path / "site" / "inflight_toy" / "build.py"
    build.write_text("import module_of_mars\n" + build.read_text().replace("from __future__ import annotations\n", ""))
    asked = ["build-engine", "--checkpoint-dir", workplace / "checkpoint", "-o", tmp_path / "engine"]
    refused = inflight(tmp_path / "site", *asked, "--target", "toy")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "Target toy needs the module module_of_mars, which is not installed" in refused.stderr
    assert "pip install inflight-toy" in refused.stderr


def test_the_page_on_targets_shows_its_files() -> None:
    page = (DOCS / "extending" / "adding_a_target.md").read_text()
    blocks = re.findall(r"```(?:python|toml)\n(.*?)```", page, flags=re.DOTALL)
    sources = "\n".join(path.read_text() for path in sorted(TOY.rglob("*")) if path.suffix in (".py", ".toml"))
    assert len(blocks) >= 4
    for block in blocks:
        assert block.strip() in sources, block
