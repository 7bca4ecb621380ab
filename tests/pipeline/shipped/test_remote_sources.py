"""Models, checkpoints and engines on an object store: a real server of S3's API on loopback (moto)."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from inflight.cli.main import build_app
from inflight.convert.source.model import open_source
from inflight.errors import InflightError, ModelError
from inflight.files import remote
from inflight.files.remote import as_url, fetch
from inflight.runtime import LLM, SamplingParams
from tests.engines.demo_engine import DEMO_MODEL

pytestmark = pytest.mark.pipeline

moto = pytest.importorskip("moto.server", reason="moto is the server of S3's API")
pytest.importorskip("s3fs")
BUILD: dict[str, Any] = {"target": "reference", "max_seq_len": 256, "max_batch_size": 2, "max_num_tokens": 64}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A file system with a new bucket; credentials are in the environment."""
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "cache"))
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    if system.exists("bkt"):
        system.rm("bkt", recursive=True)
    system.mkdir("bkt")
    return system


def put(store: Any, key: str, data: bytes) -> None:
    with store.open(key, "wb") as file:
        file.write(data)


def test_a_model_is_fetched_built_and_found_again(store: Any, tmp_path: Path) -> None:
    store.put(f"{DEMO_MODEL}/", f"bkt/models/{DEMO_MODEL.name}/", recursive=True)
    put(store, f"bkt/models/{DEMO_MODEL.name}/pytorch_model.bin", bytes(100))
    with LLM(model=f"s3://bkt/models/{DEMO_MODEL.name}/", **BUILD) as llm:
        (found,) = llm.generate("def f(", SamplingParams(temperature=0, max_tokens=4))
    with LLM(model=str(DEMO_MODEL), **BUILD) as llm:
        assert llm.generate("def f(", SamplingParams(temperature=0, max_tokens=4))[0].outputs == found.outputs
    (engine,) = (tmp_path / "cache" / "engines").iterdir()
    assert engine.name.startswith(DEMO_MODEL.name), "the same contents are the same engine"
    fetched = {path.name for path in (tmp_path / "cache" / "remote").rglob("*")}
    assert "model.safetensors" in fetched and "pytorch_model.bin" not in fetched
    store.put(f"{engine}/", "bkt/engine/", recursive=True)
    shutil.rmtree(engine)
    with LLM(model="s3://bkt/engine") as llm:
        assert llm.generate("def f(", SamplingParams(temperature=0, max_tokens=4))[0].outputs == found.outputs


def test_commands_take_addresses(store: Any, tmp_path: Path) -> None:
    store.put(f"{DEMO_MODEL}/", "bkt/demo/", recursive=True)
    run = CliRunner().invoke

    def command(*words: str) -> Any:
        return run(build_app([words[0]]), list(words))

    done = command("convert", "s3://bkt/demo", "-o", str(tmp_path / "ckpt"))
    assert done.exit_code == 0, done.output
    store.put(f"{tmp_path / 'ckpt'}/", "bkt/ckpt/", recursive=True)
    done = command("build-engine", "--checkpoint-dir", "s3://bkt/ckpt", "--target", "reference", "--dry-run")
    assert done.exit_code == 0, done.output
    with pytest.raises(InflightError, match="--revision r has no meaning for s3://bkt/demo"):
        open_source("s3://bkt/demo", "r")


def test_what_was_interrupted_goes_on_and_what_changed_is_fetched_anew(
    store: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_CHUNK", 1 << 16)
    data = rng.bytes(int(rng.integers(1 << 18, 1 << 19)))
    put(store, "bkt/m/model.safetensors", data)
    put(store, "bkt/m/sub/deep.json", b"{}")
    put(store, "bkt/m/empty", b"")
    asked: list[tuple[str, int]] = []
    read, fails_at = store.cat_file, [2]

    def counted(path: str, start: int = 0, end: int = 0) -> Any:
        asked.append((path, start))
        if len(asked) == fails_at[0] + 1:
            raise KeyboardInterrupt
        return read(path, start=start, end=end)

    monkeypatch.setattr(store, "cat_file", counted)
    with pytest.raises(KeyboardInterrupt):
        fetch("s3://bkt/m", ("model*",))
    fails_at[0] = -1
    directory = fetch("s3://bkt/m", ("*",))
    assert (directory / "model.safetensors").read_bytes() == data and directory.name == "m"
    assert (directory / "sub" / "deep.json").read_bytes() == b"{}" and (directory / "empty").read_bytes() == b""
    starts = [start for path, start in asked if path.endswith("model.safetensors")]
    assert starts == [0, 1 << 16, 2 << 16, *range(2 << 16, len(data), 1 << 16)]
    asked.clear()
    assert fetch("s3://bkt/m", ("*",)) == directory and asked == []
    put(store, "bkt/m/sub/deep.json", b"[]")
    store.rm("bkt/m/empty")
    fetch("s3://bkt/m", ("*",))
    assert (directory / "sub" / "deep.json").read_bytes() == b"[]" and not (directory / "empty").exists()
    assert [path for path, _ in asked] == ["bkt/m/sub/deep.json"]
    assert not list(directory.parent.glob("*.part"))


def test_what_cannot_be_read_says_why(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    def message(url: str) -> str:
        with pytest.raises(InflightError) as caught:
            open_source(url, None)
        return str(caught.value)

    put(store, "bkt/m/notes.txt", b"x")
    put(store, "bkt/lora/adapter_config.json", b'{"base_model_name_or_path": "a/b"}')
    assert "nothing at s3://no-such-bucket/m" in message("s3://no-such-bucket/m")
    assert re.search("nothing at s3://bkt/x.*\n.*AWS_ACCESS_KEY_ID", message("s3://bkt/x"))
    assert "s3://bkt/m has no config.json" in message("s3://bkt/m")
    assert "s3://bkt/lora is a PEFT adapter (LoRA) of a/b" in message("s3://bkt/lora")
    assert "nothing at s3://bkt" in message("s3://bkt/m/x.gguf")
    assert "ftp:// is not read" in message("ftp://b/m")
    assert "Give the hub id: Qwen/Qwen3-8B" in message("https://huggingface.co/Qwen/Qwen3-8B/tree/main")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    s3fs.S3FileSystem.clear_instance_cache()
    assert re.search("Access to s3://bkt/m is not granted: .*redentials.*\n.*AWS_PROFILE", message("s3://bkt/m"))
    for scheme, module in (("gs", "gcsfs"), ("az", "adlfs")):
        monkeypatch.setitem(sys.modules, module, None)
        wanted = f"Reading {scheme}://b/m needs the module {module}.*\npip install 'inflight-llm\\[{scheme}\\]'"
        assert re.search(wanted, message(f"{scheme}://b/m"))


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("s3://a/b/", "s3://a/b"),
        (Path("s3://a/b"), "s3://a/b"),
        ("S3://a/b", "s3://a/b"),
        ("org/model", None),
        ("./s3", None),
        ("C:", None),
        ("/a:b/c", None),
    ],
)
def test_addresses_are_told_from_paths(name: str | Path, url: str | None) -> None:
    assert as_url(name) == url


def test_a_name_that_leads_out_is_refused(monkeypatch: pytest.MonkeyPatch, store: Any) -> None:
    put(store, "bkt/m/../../config.json", b"{}")
    with pytest.raises(ModelError, match=r"leads out of it|nothing at"):
        fetch("s3://bkt/m", ("*",))
