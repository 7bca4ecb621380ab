"""Engines of a model's whole size without their weights: how long a step takes does not depend on those."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from compare.kit.engines import calibration
from compare.kit.networks import LLAMA, write_network
from inflight.build.engine import manifest_of, plan_build
from inflight.build.registry import make_recipe
from inflight.build.targets.cuda.build import CudaBuild
from inflight.convert.api import convert_model
from inflight.convert.checkpoint.directory import rank_file_name
from inflight.convert.options import ConvertOptions
from inflight.engine_format.cuda_facts import CudaFacts
from inflight.engine_format.manifest import MANIFEST_NAME, FileFacts
from inflight.engine_format.manifest_file import encode_manifest
from inflight.files import sha256_file
from inflight.files.scratch import scratch_directory

# What a checkpoint's config.json says of Llama-3.1-8B, and of a network that the rehearsal can compute; heads *
# head_size is hidden_size in both, as in the pattern that is converted.
LLAMA_8B: Mapping[str, int] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_size": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}
_SMALL: Mapping[str, int] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_size": 16,
    "vocab_size": 300,
    "max_position_embeddings": 512,
}
# Name of the engine to the options of its conversion and of its build.
NETWORKS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "bfloat16": ({}, {}),
    "fp8": ({"quantize": "fp8_rowwise"}, {"kv_cache_dtype": "fp8"}),
}
_LIMITS = {"max_batch_size": 256, "max_seq_len": 4096, "max_num_tokens": 2048, "max_logit_rows": 256}
_SMALL_LIMITS = {"max_batch_size": 4, "max_seq_len": 64, "max_num_tokens": 32, "max_logit_rows": 4}
_DTYPE_BYTES = {"BF16": 2, "F32": 4, "F8_E4M3": 1}
# Of the weights, whose memory is filled without a file.
_ABSENT = FileFacts(bytes=0, sha256="0" * 64)
_LAYER = "transformer.layers.0."


def write_hollow_engines(directory: Path, generations: Sequence[int], *, tiny: bool) -> None:
    """DIR/NAME has the manifest, launches and kernels of an engine. `tiny`: at sizes for the interpreter."""
    sizes, limits = (_SMALL, _SMALL_LIMITS) if tiny else (LLAMA_8B, _LIMITS)
    for name, (options, flags) in NETWORKS.items():
        with scratch_directory(directory.parent, "network") as scratch:
            _write_hollow_checkpoint(scratch, options, sizes)
            sm = tuple(str(each) for each in generations)
            planned = plan_build(scratch / "hollow", make_recipe(target="cuda", sm=sm, **flags, **limits))
            assert isinstance(planned.target, CudaBuild)
            (directory / name).mkdir(parents=True)
            planned.target.write_code(directory / name)
            files = {path.name: _facts(path) for path in (directory / name).iterdir()}
            own = planned.plan.target.own
            assert isinstance(own, CudaFacts)
            files[own.weights_file] = _ABSENT
            (directory / name / MANIFEST_NAME).write_bytes(encode_manifest(manifest_of(planned, files)))


def _facts(path: Path) -> FileFacts:
    return FileFacts(bytes=path.stat().st_size, sha256=sha256_file(path))


def _write_hollow_checkpoint(scratch: Path, options: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """SCRATCH/hollow: the checkpoint of one layer of a small network, stretched; its file is a hole but for scales."""
    pattern = {**LLAMA, "num_hidden_layers": 1, "torch_dtype": "bfloat16"}
    write_network(scratch / "model", pattern)
    more = calibration(options, scratch / "text.jsonl", pattern["vocab_size"])
    convert_model(scratch / "model", scratch / "pattern", ConvertOptions(progress=False, **options, **more))
    config = json.loads((scratch / "pattern" / "config.json").read_text())
    old, new = _dimensions(config), _dimensions({**config, **sizes})
    stretched = dict(zip(old, new, strict=True))
    (scratch / "hollow").mkdir()
    (scratch / "hollow" / "config.json").write_text(json.dumps({**config, **sizes}))
    tensors: dict[str, tuple[str, list[int]]] = {}
    with safe_open(scratch / "pattern" / rank_file_name(0), "np") as file:
        for name in file.keys():  # noqa: SIM118
            part = file.get_slice(name)
            shape = [stretched.get(size, size) for size in part.get_shape()]
            layers = range(sizes["num_hidden_layers"]) if name.startswith(_LAYER) else (0,)
            for layer in layers:
                tensors[name.replace(_LAYER, f"transformer.layers.{layer}.")] = part.get_dtype(), shape
    _write_hole(scratch / "hollow" / rank_file_name(0), tensors)


def _dimensions(config: Mapping[str, Any]) -> list[int]:
    """All that a tensor of a network has, no two of them equal in the pattern."""
    rows = config["num_attention_heads"] + 2 * config["num_key_value_heads"]
    return [config["hidden_size"], config["intermediate_size"], config["vocab_size"], rows * config["head_size"]]


def _write_hole(path: Path, tensors: Mapping[str, tuple[str, list[int]]]) -> None:
    """A safetensors file that takes no space on most disks. Scales, which are the float32 tensors, are ones: zero is
    none."""
    header: dict[str, dict[str, Any]] = {}
    at = 0
    for name, (dtype, shape) in tensors.items():
        nbytes = math.prod(shape) * _DTYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + nbytes]}
        at += nbytes
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        begin = file.tell()
        for name, (dtype, shape) in tensors.items():
            if dtype == "F32":
                file.seek(begin + header[name]["data_offsets"][0])
                file.write(np.ones(shape, np.float32).tobytes())
        file.truncate(begin + at)
