"""The engines of the table, inflight first."""

from __future__ import annotations

from pathlib import Path

from bench.engines.base import Engine
from bench.engines.inflight import Inflight
from bench.engines.llama_cpp import LlamaCpp
from bench.engines.openvino import OpenVino
from bench.engines.transformers import Transformers
from bench.engines.vllm import Vllm

# Never the fastest, or not the same work: measured when they are asked for.
ON_REQUEST = ("inflight-kv8", "transformers")


def all_engines(peers: Path) -> dict[str, Engine]:
    """By name; peers live below `peers`, where --install puts them."""
    engines: list[Engine] = [
        Inflight(),
        Inflight("inflight-kv8", kv_cache_dtype="int8"),
        Vllm(peers / "vllm"),
        OpenVino(peers / "openvino"),
        LlamaCpp(peers / "llama.cpp"),
        Transformers(peers / "transformers"),
    ]
    return {engine.name: engine for engine in engines}
