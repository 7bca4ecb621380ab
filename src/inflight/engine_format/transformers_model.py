"""A causal language model that transformers computes on torch, one sequence at a time: what the builder of the target
transformers tries, and its executor runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.utils import logging

from inflight.errors import EngineError

Floats: TypeAlias = npt.NDArray[np.float32]

# Of a list of names that may be thousands long.
_SHOWN = 8


@dataclass(frozen=True)
class LoadedWeights:
    """What loading found. missing: weights of the model that no file has; misshapen: those of another shape there;
    unused: tensors of the files that the model does not have.
    """

    missing: tuple[str, ...]
    misshapen: tuple[str, ...]
    unused: tuple[str, ...]


class TransformersModel:
    """The model in `directory`, in `dtype`. No code of the directory is run, and nothing is downloaded.

    `config` is that of transformers, `vocab_size` the number of tokens that can be read and chosen, `loaded` what was
    found beside the weights. Raises EngineError when transformers cannot load it.
    """

    def __init__(self, directory: Path, dtype: str) -> None:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            self._model, found = AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=getattr(torch, dtype),
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
            raise EngineError(f"transformers cannot load {directory}: {error}") from error
        self._model.eval()
        self.config: Any = self._model.config
        self.loaded = LoadedWeights(
            _names(found["missing_keys"]), _names(found["mismatched_keys"]), _names(found["unexpected_keys"])
        )
        forward = inspect.signature(self._model.forward).parameters
        self._takes_positions = "position_ids" in forward
        self._keeps_logits = "logits_to_keep" in forward
        self.vocab_size: int = self._model.get_input_embeddings().num_embeddings
        sizes = [self.vocab_size, *(head.out_features for head in (self._model.get_output_embeddings(),) if head)]
        self.vocab_size = min(sizes)

    def use_threads(self, count: int) -> None:
        """So many threads compute from now on what the calling thread asks for: torch's number is a thread's own."""
        torch.set_num_threads(count)

    @property
    def decoder_config(self) -> Any:
        """The part of the config that is about text."""
        return self.config.get_text_config(decoder=True)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self._model.parameters())

    @property
    def nbytes(self) -> int:
        """Bytes of all weights and tables."""
        return held_bytes([*self._model.parameters(), *self._model.buffers()])

    @property
    def embedding_parameters(self) -> int:
        """Those of the table of token embeddings."""
        return int(self._model.get_input_embeddings().weight.numel())

    @property
    def ties_embeddings(self) -> bool:
        head = self._model.get_output_embeddings()
        return head is not None and head.weight is self._model.get_input_embeddings().weight

    def continued(self, token_ids: Sequence[int], start: int, cache: Any, *, last_row: bool) -> tuple[Floats, Any]:
        """The logits of token_ids[start:], float32 [tokens, vocab_size] (only the last row where `last_row`), and the
        cache of all of `token_ids`. `cache`: that of the first `start`, which is used up; None: start is 0.

        The inputs are those that `generate` would make.
        """
        ids = torch.tensor([list(token_ids)])
        inputs: dict[str, Any] = {
            "attention_mask": torch.ones_like(ids),
            "cache": DynamicCache(config=self.config) if cache is None else cache,
            "use_cache": True,
        }
        if self._takes_positions:
            inputs["position_ids"] = torch.arange(len(token_ids))[None]
        if self._keeps_logits:
            inputs["logits_to_keep"] = 1 if last_row else 0
        count = len(token_ids) - start
        with torch.inference_mode():
            made = self._model.prepare_inputs_for_generation(
                ids, next_sequence_length=count, is_first_iteration=start == 0, **inputs
            )
            output = self._model(**made, return_dict=True)
        logits: Floats = output.logits[0, -1 if last_row else -count :, : self.vocab_size].float().numpy()
        return logits, output.get("cache")


def read_config(directory: Path) -> tuple[Any, bool]:
    """The config of transformers, and whether it has a causal language model for it. Raises EngineError."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise EngineError(f"transformers cannot read the config of {directory}: {error}") from error
    return config, type(config) in MODEL_FOR_CAUSAL_LM_MAPPING


def held_bytes(found: Any) -> int:
    """Bytes of all tensors in an object, each memory counted once: those of a cache, say."""
    return sum(
        {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(found)}.values()
    )


def _tensors(found: Any, seen: set[int] | None = None) -> Iterator[torch.Tensor]:
    seen = set() if seen is None else seen
    if id(found) in seen:
        return
    seen.add(id(found))
    if isinstance(found, torch.Tensor):
        yield found
        return
    inside: Iterable[Any] = ()
    if isinstance(found, Mapping):
        inside = found.values()
    elif isinstance(found, list | tuple):
        inside = found
    elif hasattr(found, "__dict__") and not isinstance(found, type):
        inside = vars(found).values()
    for each in inside:
        yield from _tensors(each, seen)


def _names(found: Iterable[Any]) -> tuple[str, ...]:
    """Of mismatched ones the file tells the shapes as well."""
    return tuple(sorted(one if isinstance(one, str) else str(one[0]) for one in found))


def listed(names: Sequence[str]) -> str:
    """The first of them, and how many more."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
