"""The engines of the table, inflight first."""

from __future__ import annotations

from pathlib import Path

from compare.engines.base import Engine
from compare.engines.inflight import WIDE_ROWS, Inflight, InflightOfGguf
from compare.engines.llama_cpp import BETTER_TYPES, LlamaCpp
from compare.engines.openvino import OpenVino
from compare.engines.transformers import Transformers
from compare.engines.vllm import Vllm

# Never the fastest, or not the same work: measured when they are asked for.
ON_REQUEST = ("inflight-16-bit-rows", "inflight-kv8", "inflight-gguf", "inflight-gguf-k", "transformers")


def all_engines(peers: Path) -> dict[str, Engine]:
    """By name; peers live below `peers`, where --install puts them."""
    files = LlamaCpp(peers / "llama.cpp")
    better_files = LlamaCpp(peers / "llama.cpp", "llama.cpp-k", BETTER_TYPES)
    engines: list[Engine] = [
        Inflight(),
        Inflight("inflight-16-bit-rows", WIDE_ROWS),
        Inflight("inflight-kv8", kv_cache_dtype="int8"),
        InflightOfGguf("inflight-gguf", files),
        InflightOfGguf("inflight-gguf-k", better_files),
        Vllm(peers / "vllm"),
        OpenVino(peers / "openvino"),
        files,
        better_files,
        Transformers(peers / "transformers"),
    ]
    return {engine.name: engine for engine in engines}
