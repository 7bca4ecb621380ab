"""Files beside config.json in which tools said how a model is quantized before config.json had a place for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inflight.convert.source.quantized.methods import QUANTIZATION_KEYS
from inflight.errors import ModelError
from inflight.files.json_file import read_json_object

# ModelOpt's early exports, AutoGPTQ, AutoAWQ: the method, and the key that the rest lies under.
_FILES: Mapping[str, tuple[str, str | None]] = {
    "hf_quant_config.json": ("modelopt", "quantization"),
    "quantize_config.json": ("gptq", None),
    "quant_config.json": ("awq", None),
}
BESIDE_CONFIG = tuple(_FILES)


def with_quantization(directory: Path, config: dict[str, Any]) -> dict[str, Any]:
    """config.json of the model in `directory`, with the quantization that a file beside it names where it names none.
    Raises ModelError for a file that cannot be read."""
    if any(config.get(key) for key in QUANTIZATION_KEYS):
        return config
    for name, (method, key) in _FILES.items():
        if (directory / name).is_file():
            found = read_json_object(directory / name, ModelError)
            inner = found if key is None else found.get(key)
            said = inner if isinstance(inner, dict) else {}
            return {**config, QUANTIZATION_KEYS[0]: {"quant_method": method, **said}}
    return config
