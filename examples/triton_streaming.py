"""Stream text from Triton through tritonclient: a decoupled gRPC stream to the model `tensorrt_llm_bls`.

Start a server first: inflight serve ENGINE
Run: python examples/triton_streaming.py [HOST:PORT]    (default localhost:8001, Triton's gRPC port)
"""

from __future__ import annotations

import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton

DTYPES: dict[str, Any] = {
    "BYTES": object,
    "INT32": np.int32,
    "UINT64": np.uint64,
    "FP32": np.float32,
    "BOOL": bool,
}


def make_input(name: str, value: object, kind: str) -> triton.InferInput:
    """A tensor of shape [1, 1]: a batch of one request with one value."""
    array = np.array([[value]], DTYPES[kind])
    tensor = triton.InferInput(name, array.shape, kind)
    tensor.set_data_from_numpy(array)
    return tensor


def main(url: str) -> None:
    inputs = [
        make_input("text_input", b"Once upon a time", "BYTES"),
        make_input("max_tokens", 32, "INT32"),
        make_input("temperature", 0.8, "FP32"),
        make_input("top_k", 20, "INT32"),
        make_input("seed", 7, "UINT64"),
        make_input("min_tokens", 8, "INT32"),
        make_input("stream", True, "BOOL"),
        make_input("exclude_input_in_output", True, "BOOL"),
    ]
    responses: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(url) as client:
        client.start_stream(callback=lambda result, error: responses.put((result, error)))
        client.async_stream_infer("tensorrt_llm_bls", inputs, enable_empty_final_response=True)
        final = False
        while not final:
            result, error = responses.get(timeout=60)
            if error is not None:
                raise error
            text = result.as_numpy("text_output")
            if text is not None and text.size:
                print(text.reshape(-1)[0].decode(), end="", flush=True)
            final = result.get_response().parameters["triton_final_response"].bool_param
        client.stop_stream()
    print()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "localhost:8001")
