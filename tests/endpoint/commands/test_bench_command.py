"""`inflight bench` as a user runs it: an engine in its process, and real servers, ours and those of others."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from inflight.benchmark.limit_checks import LimitExceeded
from inflight.cli.bench.app import bench as app
from inflight.engine_format.manifest import MANIFEST_NAME
from inflight.errors import InflightError
from inflight.triton_backend.launch.server import TritonServer
from tests.engines.engine_files import edit_manifest
from tests.engines.serving_engines import write_null_engine
from tests.network.support import chosen, some_of

pytestmark = pytest.mark.endpoint


def bench(*arguments: str | Path, code: int = 0) -> Result:
    """What was printed; whatever is raised but not shown as the user's mistake."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result


def load(rng: np.random.Generator) -> tuple[int, int, list[str]]:
    """Requests, tokens of each answer, and the flags that ask for them."""
    requests, output = int(rng.integers(2, 9)), int(rng.integers(2, 12))
    flags = ["--num-prompts", str(requests), "--random-input-len", "20", "--random-output-len", str(output)]
    return requests, output, [*flags, "--max-concurrency", "3", "--seed", str(rng.integers(2**31))]


def test_an_engine_is_measured_beside_the_limits_of_the_machine(engine: Path, tmp_path: Path) -> None:
    batches, result = ("1", "3"), tmp_path / "results" / "latency.json"
    flags = ["--input-len", "16", "--batch-size", ",".join(batches), "--output-len", "1", "--num-iters", "2"]
    shown = bench(engine, *flags, "--json", result).stdout
    record = json.loads(result.read_text(), parse_constant=pytest.fail)
    assert [str(each["batch_size"]) for each in record["results"]] == list(batches)
    assert all(len(each["latencies"]) == 2 and each["prefill"]["tokens"] > 0 for each in record["results"])
    assert all(each["decode"]["steps"] == 0 and each["decode"]["p99_step_ms"] is None for each in record["results"])
    assert record["limits"]["read_GB_per_s"] > 0 and "Measured limits: reading" in shown


# The machine is measured in each.
@pytest.mark.parametrize(
    "case", some_of(1, [("weight_bytes_per_step", "reading"), ("layer_flops_per_token", "arithmetic peak")])
)
def test_an_engine_above_the_limits_of_the_machine_ends_the_run_with_an_error(
    case: Any, tmp_path: Path, rng: np.random.Generator
) -> None:
    kind, limit = chosen(case, rng)
    engine = write_null_engine(tmp_path / "engine")
    manifest = json.loads((engine / MANIFEST_NAME).read_text())
    edit_manifest(engine, work={**manifest["work"], kind: 1 << 50})
    result = tmp_path / "result.json"
    flags = ["--num-prompts", "2", "--input-len", "8", "--output-len", "4", "--json", str(result)]
    with pytest.raises(LimitExceeded, match=rf"(?s)limit of the machine is too low.*decode: \d+% of what.*{limit}"):
        bench("throughput", engine, *flags)
    assert LimitExceeded("").exit_code != 0
    assert json.loads(result.read_text())["results"][0]["decode"]["share_of_limit"] > 1


def test_all_prompts_of_a_throughput_run_are_answered(engine: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    prompts, length, output = (int(number) for number in rng.integers(1, 20, 3))
    flags = ["--num-prompts", prompts, "--input-len", length, "--output-len", output]
    bench("throughput", engine, *map(str, flags), "--json", tmp_path / "result.json")
    (result,) = json.loads((tmp_path / "result.json").read_text())["results"]
    assert result["num_requests"] == prompts and result["total_num_tokens"] == prompts * (length + output)


@pytest.mark.parametrize("backend", ["openai", "openai-chat"])
def test_every_token_of_the_shim_is_counted(
    shim: str, backend: str, engine: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    requests, output, flags = load(rng)
    more = ["--tokenizer", str(engine), "--goodput", "ttft:600000", "--result-filename", str(tmp_path / "result.json")]
    shown = bench("serve", "--backend", backend, "--base-url", shim, *flags, *more).stdout
    record = json.loads((tmp_path / "result.json").read_text())
    assert (record["completed"], record["failed"]) == (requests, 0)
    assert record["total_output_tokens"] == requests * output
    assert record["request_goodput"] == pytest.approx(record["request_throughput"])
    assert 1 <= record["max_concurrent_requests"] <= 3
    assert f"Successful requests:{'':<20} {requests}" in shown


def test_every_token_of_triton_is_counted(triton: TritonServer, tmp_path: Path, rng: np.random.Generator) -> None:
    requests, output, flags = load(rng)
    address = triton.address.grpc_url
    flags += ["--result-dir", str(tmp_path), "--save-detailed", "--label", "mine"]
    bench("serve", "--backend", "triton", "--base-url", address, *flags)
    (path,) = tmp_path.glob("mine-*.json")
    record = json.loads(path.read_text())
    assert record["total_output_tokens"] == requests * output
    assert record["input_lens"] == [20] * requests and record["output_lens"] == [output] * requests


def test_requests_that_no_sequence_of_the_engine_holds_are_told_with_lengths_that_fit(
    shim: str, engine: Path, rng: np.random.Generator
) -> None:
    limit = json.loads((engine / MANIFEST_NAME).read_text())["limits"]["max_seq_len"]
    flags = ["serve", "--base-url", shim, "--num-prompts", "1"]
    flags += ["--random-range-ratio", str(rng.choice([0.0, 0.3])), "--random-prefix-len", str(rng.integers(0, 9))]
    output = ["--random-output-len", str(rng.integers(1, 9))]
    with pytest.raises(InflightError, match=f"limit of {limit} tokens a sequence") as caught:
        bench(*flags, *output, "--random-input-len", str(2 * limit))
    hint = caught.value.hint or ""
    assert "--base-url" not in hint and "--max-seq-len" in hint
    advice = re.findall(r"(--random-\w+-len) (\d+)", hint)
    assert [name for name, _ in advice] == ["--random-input-len", "--random-output-len"]
    assert 0 < sum(int(length) for _, length in advice) <= limit


def test_a_request_that_triton_refuses_is_too_long_and_not_for_another_address(
    triton: TritonServer, engine: Path
) -> None:
    limit = json.loads((engine / MANIFEST_NAME).read_text())["limits"]["max_seq_len"]
    flags = ["--backend", "triton", "--base-url", triton.address.grpc_url, "--random-input-len", str(limit)]
    with pytest.raises(InflightError, match=f"The first request failed: .*{limit}") as caught:
        bench("serve", *flags, "--num-prompts", "1")
    hint = caught.value.hint or ""
    assert f"--random-input-len ({limit})" in hint and "--random-output-len (128)" in hint and "--base-url" not in hint


class OtherServer(http.server.BaseHTTPRequestHandler):
    """Answers every request with `status` and `body`, then closes."""

    status, body = 200, b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *arguments: Any) -> None:
        """Silent."""


@contextmanager
def other_server(status: int, body: str) -> Iterator[str]:
    handler = type("Handler", (OtherServer,), {"status": status, "body": body.encode()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_events_without_a_blank_behind_the_colon_are_read(tmp_path: Path) -> None:
    events = ['{"choices": [{"text": "a"}]}', '{"choices": [], "usage": {"completion_tokens": 2}}', "[DONE]"]
    with other_server(200, "".join(f"data:{event}\n\n" for event in events)) as url:
        flags = ["--model", "m", "--num-prompts", "2", "--result-filename", str(tmp_path / "result.json")]
        bench("serve", "--base-url", url, *flags)
    assert json.loads((tmp_path / "result.json").read_text())["total_output_tokens"] == 4


def test_without_usage_every_piece_counts_as_a_token(tmp_path: Path, rng: np.random.Generator) -> None:
    pieces = int(rng.integers(1, 9))
    with other_server(200, 'data: {"choices": [{"text": "a"}]}\n\n' * pieces) as url:
        flags = ["--model", "mine", "--num-prompts", "3", "--result-filename", str(tmp_path / "result.json")]
        bench("serve", "--base-url", url, *flags)
    record = json.loads((tmp_path / "result.json").read_text())
    assert (record["total_output_tokens"], record["model_id"]) == (3 * pieces, "mine")


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (500, "broken", "HTTP 500: broken"),
        (200, "", "The stream had no output"),
        (200, 'data: {"error": {"message": "no room"}}\n\n', "no room"),
        (200, "data: {\n\n", "JSONDecodeError"),
        (200, "data: 3\n\n", "TypeError"),
        (200, 'data: {"choices": [3]}\n\n', "AttributeError"),
        (200, 'data: {"choices": [{"text": "a"}], "usage": {"prompt_tokens": 3}}\n\n', "KeyError"),
    ],
)
def test_an_answer_of_another_form_is_that_requests_error(status: int, body: str, message: str) -> None:
    with other_server(status, body) as url:
        flags = ["serve", "--base-url", url, "--model", "m", "--num-prompts", "2"]
        with pytest.raises(InflightError, match=f"The first request failed: {message}"):
            bench(*flags)
        with pytest.raises(InflightError, match=f"Every request failed; the first: {message}"):
            bench(*flags, "--num-warmups", "0")


@pytest.mark.parametrize("body", ["", "{", "[]", "3", '{"data": []}', '{"data": null}'])
def test_a_server_that_names_no_model_is_told_by_its_address(body: str) -> None:
    with other_server(200, body) as url, pytest.raises(InflightError, match=f"{url}/v1/models gives no model"):
        bench("serve", "--base-url", url)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["serve", "--metric-percentiles", "50,101"], "--metric-percentiles"),
        (["serve", "--goodput", "ttft"], "--goodput"),
        (["serve", "--extra-body", "[]"], "--extra-body"),
        (["serve", "here"], "here is not a flag"),
        (["ENGINE", "--seed", "-1"], "--seed"),
        (["ENGINE", "--output-len", "0"], "--output-len"),
        (["ENGINE", "--batch-size", "1,x"], "--batch-size"),
        (["ENGINE", "--json", "."], "--json"),
    ],
)
def test_a_flag_that_cannot_be_meant_is_named_before_anything_runs(
    engine: Path, flags: list[str], message: str
) -> None:
    words = [str(engine) if word == "ENGINE" else word for word in flags]
    assert message in bench(*words, code=2).stderr
