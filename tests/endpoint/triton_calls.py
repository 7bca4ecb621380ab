"""Calls to a Triton server in the ways of its clients."""

from __future__ import annotations

import queue
import urllib.request
from collections.abc import Mapping
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

from inflight.triton_backend.launch.server import TritonServer
from tests.patience import PATIENCE_S


def make_inputs(module: Any, values: Mapping[str, Any]) -> list[Any]:
    """Input tensors with a batch dimension of 1, or as they are for arrays. Python values get the contract's types."""
    inputs = []
    for name, value in values.items():
        array = value if isinstance(value, np.ndarray) else _array(value)
        tensor = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def _array(value: Any) -> Any:
    values = value if isinstance(value, list) else [value]
    kinds: dict[type, Any] = {bool: np.bool_, int: np.int32, float: np.float32, str: np.object_}
    encoded = [item.encode() if isinstance(item, str) else item for item in values]
    return np.array([encoded], dtype=kinds[type(values[0])])


class Stream:
    """One gRPC stream."""

    def __init__(self, server: TritonServer) -> None:
        self._client = triton.InferenceServerClient(server.address.grpc_url)
        self._responses: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self._client.start_stream(callback=lambda result, error: self._responses.put((result, error)))

    def send(self, model: str, values: Mapping[str, Any], **options: Any) -> None:
        inputs = make_inputs(triton, values)
        self._client.async_stream_infer(model, inputs, enable_empty_final_response=True, **options)

    def receive(self) -> tuple[dict[str, Any], bool]:
        """The tensors of the next response and whether it is the last. Raises the server's error."""
        result, error = self._responses.get(timeout=PATIENCE_S)
        if error is not None:
            raise error
        response = result.get_response()
        tensors = {output.name: result.as_numpy(output.name) for output in response.outputs}
        return tensors, response.parameters["triton_final_response"].bool_param

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.stop_stream(cancel_requests=True)
        self._client.close()


def stream(server: TritonServer, model: str, values: Mapping[str, Any], **options: Any) -> list[dict[str, Any]]:
    """Every response that has tensors."""
    responses = []
    with Stream(server) as opened:
        opened.send(model, values, **options)
        final = False
        while not final:
            tensors, final = opened.receive()
            if tensors:
                responses.append(tensors)
    return responses


def ids(prompt: list[int], max_tokens: int, **more: Any) -> dict[str, Any]:
    """The inputs of a tensorrt_llm request."""
    required = {"input_ids": prompt, "input_lengths": len(prompt), "request_output_len": max_tokens}
    return {**required, **more}


def texts(responses: list[dict[str, Any]]) -> list[str]:
    return [response["text_output"][0].decode() for response in responses]


def metric(server: TritonServer, name: str, **labels: str) -> float:
    """A value from Triton's /metrics."""
    url = f"http://127.0.0.1:{server.address.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as page:
        lines = page.read().decode().splitlines()
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    line = next(line for line in lines if line.startswith(name + "{") and all(label in line for label in wanted))
    return float(line.rpartition(" ")[2])


def used_blocks(server: TritonServer) -> float:
    return metric(server, "nv_trt_llm_kv_cache_block_metrics", kv_cache_block_type="used")
