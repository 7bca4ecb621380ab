"""What a directory or a file is that holds no model of Hugging Face: named, with what would work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inflight.errors import ModelError

ADAPTER, PIPELINE = "adapter_config.json", "model_index.json"
# Small files by which other kinds are known; of a hub model they are fetched with its config.json.
MARKS = (ADAPTER, PIPELINE)
_GGUF_MAGIC = b"GGUF"


def refuse_adapter(directory: Path, name: str) -> None:
    """Raises ModelError for a directory that holds a PEFT adapter and no weights of a model."""
    if (directory / ADAPTER).is_file():
        base = _read(directory / ADAPTER).get("base_model_name_or_path")
        of = f" of {base}" if isinstance(base, str) and base else ""
        raise ModelError(
            f"{name} is a PEFT adapter (LoRA){of}, not a model.",
            "Merge it once, where torch and peft are installed, and give the merged directory:\n"
            '  python -c "from peft import AutoPeftModelForCausalLM as M; '
            f"M.from_pretrained('{name}').merge_and_unload().save_pretrained('merged')\"\n"
            "Its tokenizer goes there, too.",
        )


def refuse_other_kind(directory: Path, name: str) -> None:
    """Raises ModelError saying what a directory without config.json is, where that can be told."""
    refuse_adapter(directory, name)
    if (directory / PIPELINE).is_file():
        kind = _read(directory / PIPELINE).get("_class_name")
        raise ModelError(
            f"{name} is a diffusers pipeline{f' ({kind})' if isinstance(kind, str) else ''}: it makes images or sound, "
            "not text.",
            "Give the directory of a language model.",
        )
    there = {path.name for path in directory.iterdir()}
    if "manifest.json" in there:
        raise ModelError(f"{name} is an engine already.", f"Run it: inflight serve {name}")
    if "params.json" in there:
        raise ModelError(
            f"{name} is a model in the format of its maker (params.json), not of Hugging Face.",
            "Take the version with config.json; transformers has converters for Llama's and Mistral's format.",
        )
    for ending, kind in (
        (".onnx", "an ONNX model"),
        (".xml", "an OpenVINO model"),
        (".pth", "a PyTorch checkpoint"),
        (".ckpt", "a PyTorch checkpoint"),
        (".nemo", "a NeMo checkpoint"),
        (".engine", "an engine of TensorRT"),
        (".plan", "an engine of TensorRT"),
        (".mlmodel", "a Core ML model"),
    ):
        found = sorted(file for file in there if file.endswith(ending))
        if found:
            raise ModelError(
                f"{name} is {kind} ({found[0]}), and has no config.json.",
                "Give the model that it was made from: the directory of a Hugging Face model, or a GGUF file.",
            )


def refuse_engine_of_tensorrt_llm(config: dict[str, Any], name: str) -> None:
    """Raises ModelError for the config.json that trtllm-build writes beside an engine."""
    if "build_config" in config and "pretrained_config" in config:
        raise ModelError(
            f"{name} is an engine of TensorRT-LLM: compiled code for one kind of GPU.",
            "Build from the checkpoint it was made of: inflight build-engine --checkpoint-dir CKPT -o ENGINE",
        )


def refuse_file(path: Path) -> None:
    """Raises ModelError for a file that is no GGUF file by its name."""
    with path.open("rb") as file:
        is_gguf = file.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC
    if is_gguf:
        raise ModelError(f"{path} is a GGUF file whose name does not say so.", "Rename it to end in .gguf.")
    raise ModelError(
        f"{path} is a file, and no GGUF file.",
        f"Give the directory that it is in, with config.json beside it: {path.parent}",
    )


def _read(path: Path) -> dict[str, Any]:
    """What a small JSON file says; nothing where it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
