"""Finding a Triton server, and saying why there is none."""

from __future__ import annotations

import os
import socket
import sys
from itertools import combinations
from pathlib import Path

import pytest

from inflight.errors import InflightError
from inflight.triton_backend.launch import installation
from inflight.triton_backend.launch.installation import TritonInstallation, find_triton
from inflight.triton_backend.launch.options import ServeOptions
from inflight.triton_backend.launch.server import ServerAddress, check_port

pytestmark = pytest.mark.unit

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(autouse=True)
def suitable_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))


def put_server(root: Path, stub_python: str | None) -> Path:
    """A tree that looks like an installed server; returns its bin folder."""
    server = root / "bin" / "tritonserver"
    server.parent.mkdir(parents=True)
    server.write_bytes(b"")
    server.chmod(0o755)
    if stub_python is not None:
        stub = root / "backends" / "python" / "triton_python_backend_stub"
        stub.parent.mkdir(parents=True)
        stub.write_bytes(f"\x7fELF...libpython{stub_python}.so.1.0\0".encode())
    return server.parent


def test_another_system_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert find_triton() == "Triton runs on x86-64 Linux; this is Linux on aarch64."


def test_an_old_glibc_is_named_with_the_one_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.31"))
    reason = find_triton()
    assert isinstance(reason, str)
    assert "2.35" in reason
    assert "2.31" in reason


def test_a_server_on_path_goes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = put_server(tmp_path / "opt", PYTHON)
    library = tmp_path / "lib" / f"libpython{PYTHON}.so.1.0"
    library.parent.mkdir()
    library.write_bytes(b"")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(installation, "_library_folders", lambda: iter([tmp_path / "nothing", library.parent]))
    found = find_triton()
    assert isinstance(found, TritonInstallation)
    assert (found.server.parent, found.backends) == (folder, tmp_path / "opt" / "backends")
    assert found.libraries == (library.parent,)


@pytest.mark.parametrize(("stub", "words"), [(None, "no Python backend"), ("3.7", "needs Python 3.7")])
def test_a_server_that_cannot_run_our_models_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stub: str | None, words: str
) -> None:
    monkeypatch.setenv("PATH", str(put_server(tmp_path, stub)))
    reason = find_triton()
    assert isinstance(reason, str)
    assert words in reason


def test_a_missing_libpython_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(put_server(tmp_path, PYTHON)))
    monkeypatch.setattr(installation, "_library_folders", lambda: iter([tmp_path]))
    reason = find_triton()
    assert isinstance(reason, str)
    assert f"apt-get install libpython{PYTHON}" in reason


def test_the_servers_interpreter_and_libraries_are_ours_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "/somewhere/bin")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/somewhere/lib")
    monkeypatch.setenv("PYTHONHOME", "/somewhere")
    environment = TritonInstallation(tmp_path, tmp_path, (tmp_path / "a", tmp_path / "b"), "here").environment()
    assert environment["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/somewhere/bin"]
    assert environment["LD_LIBRARY_PATH"].split(os.pathsep) == [
        str(tmp_path / "a"),
        str(tmp_path / "b"),
        "/somewhere/lib",
    ]
    assert "PYTHONHOME" not in environment


def test_a_taken_port_is_named_with_the_flag_that_changes_it() -> None:
    with socket.socket() as taken, socket.socket() as free:
        for each in (taken, free):
            each.bind(("127.0.0.1", 0))
        taken.listen()
        port, other = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        with pytest.raises(InflightError, match=rf"Port {port} .*\n.*--grpc-port"):
            ServerAddress(http_port=other, grpc_port=port, metrics_port=other).check_ports()
    check_port("127.0.0.1", port, "--port")


@pytest.mark.parametrize("port", [-1, 0, 1 << 16])
def test_what_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(InflightError, match=rf"--port is {port}; ports are 1 to 65535"):
        check_port("127.0.0.1", port, "--port")


def test_two_servers_on_one_port_are_refused_with_both_flags() -> None:
    names = ["port", "http_port", "grpc_port", "metrics_port"]
    ServeOptions(model_name="m").check_ports_differ()
    for one, other in combinations(names, 2):
        options = ServeOptions.model_validate({"model_name": "m", one: 7000, other: 7000})
        flags = [f"--{name.replace('_', '-')}" for name in (one, other)]
        with pytest.raises(InflightError, match=f"{flags[0]} and {flags[1]} are both 7000"):
            options.check_ports_differ()
