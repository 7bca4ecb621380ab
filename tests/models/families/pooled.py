"""Tiny random models for embeddings and reranking, written to disk as sentence-transformers writes them.

Sizes are odd and small, and all weights, norms and biases are random.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel

from tests.models.families.further import randomize
from tests.models.families.pooled_configs import T5_LIKE, random_config
from tests.models.tiny_tokenizers import CORPUS

# Model type -> the names of its classes; encoders and decoders.
ENCODERS: Mapping[str, str] = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "distilbert": "DistilBert",
    "electra": "Electra",
    "mpnet": "MPNet",
    "modernbert": "ModernBert",
    "albert": "Albert",
    "nomic_bert": "NomicBert",
    "gte": "Gte",
    "jina_embeddings_v3": "JinaEmbeddingsV3",
    "eurobert": "EuroBert",
    "t5": "T5",
    "deberta": "Deberta",
    "deberta-v2": "DebertaV2",
    "mt5": "MT5",
    "umt5": "UMT5",
}
DECODERS: Mapping[str, str] = {"qwen3": "Qwen3", "mistral": "Mistral", "llama": "Llama", "gemma3_text": "Gemma3Text"}
CLASSES = {**ENCODERS, **DECODERS}
# Those to which tokens of the second text of a pair are of another kind.
TELL_PAIRS = ("bert", "electra", "albert", "nomic_bert")
POOLINGS = ("mean", "cls", "lasttoken", "max", "weightedmean", "mean_sqrt_len_tokens")
_OLD_KEYS = {
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "lasttoken": "pooling_mode_lasttoken",
    "max": "pooling_mode_max_tokens",
}
VOCAB_SIZE = 401
# The ids of these tokens; a table of positions may begin behind that of padding.
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")


class Dense(NamedTuple):
    """weight [out, in], bias [out] or None, and the name of a class of torch.nn."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    activation: str


@dataclass(frozen=True)
class PooledModel:
    """A model on disk. `pooling` is None for a cross-encoder."""

    directory: Path
    model: PreTrainedModel
    kind: str
    pooling: str | None
    normalize: bool
    max_positions: int
    dense: Sequence[Dense] = ()

    def random_ids(self, rng: np.random.Generator, length: int) -> list[int]:
        """None of them special."""
        return [int(token) for token in rng.integers(len(SPECIAL), VOCAB_SIZE, length)]


def save_embedding_model(
    directory: Path,
    kind: str,
    rng: np.random.Generator,
    *,
    pooling: str | None = None,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> PooledModel:
    """A model with modules.json and the files of its modules. `changes` are values of its config."""
    pooling = pooling or str(rng.choice(POOLINGS))
    normalize = bool(rng.random() < 0.5)
    made = _random_model(kind, "Model", rng, changes).to(dtype)
    made.save_pretrained(directory)
    dense = _save_dense(directory, made.config.hidden_size, rng)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules += [(f"{index}_Dense", "Dense") for index in range(2, 2 + len(dense))]
    modules += [(f"{2 + len(dense)}_Normalize", "Normalize")] if normalize else []
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (path, name) in enumerate(modules)
    ]
    write_json(directory / "modules.json", listed)
    (directory / "1_Pooling").mkdir()
    newer = {"embedding_dimension": made.config.hidden_size, "pooling_mode": pooling, "include_prompt": True}
    modes = {key: name == pooling for name, key in _OLD_KEYS.items()}
    older = {"word_embedding_dimension": made.config.hidden_size, **modes}
    write_json(directory / "1_Pooling" / "config.json", newer if rng.random() < 0.5 else older)
    write_json(directory / "sentence_bert_config.json", {"max_seq_length": 100, "do_lower_case": False})
    prompts = {"prompts": {"query": "the lazy ", "document": ""}, "default_prompt_name": None}
    write_json(directory / "config_sentence_transformers.json", prompts)
    save_tokenizer(directory, tells_pairs=kind in TELL_PAIRS)
    return PooledModel(directory, made, kind, pooling, normalize, 120, dense)


def _save_dense(directory: Path, size: int, rng: np.random.Generator) -> list[Dense]:
    """Of half of the models one or two, as sentence_transformers.models.Dense saves itself."""
    found: list[Dense] = []
    for index in range(2, 2 + int(rng.choice([0, 0, 1, 2]))):
        activation, has_bias = str(rng.choice(["Tanh", "Identity", "ReLU", "GELU"])), bool(rng.random() < 0.5)
        # A vector of zeros alone, which few outputs of a ReLU often are, has neither a length nor a cosine.
        outputs = int(rng.integers(20 if activation == "ReLU" else 3, 60))
        weight = torch.tensor(rng.standard_normal((outputs, size)) * size**-0.5).float()
        found.append(
            Dense(weight, torch.tensor(rng.standard_normal(outputs)).float() if has_bias else None, activation)
        )
        module = "linear" if activation == "Identity" else "activation"
        function = f"torch.nn.modules.{module}.{activation}"
        config = {"in_features": size, "out_features": outputs, "bias": has_bias, "activation_function": function}
        (directory / f"{index}_Dense").mkdir()
        write_json(directory / f"{index}_Dense" / "config.json", config)
        tensors = {"linear.weight": weight} | ({} if found[-1].bias is None else {"linear.bias": found[-1].bias})
        save_file(tensors, directory / f"{index}_Dense" / "model.safetensors")
        size = outputs
    return found


def save_cross_encoder(
    directory: Path, kind: str, rng: np.random.Generator, *, dtype: torch.dtype = torch.float32, **changes: Any
) -> PooledModel:
    """A classifier of one label."""
    made = _random_model(kind, "ForSequenceClassification", rng, {"num_labels": 1, **changes}).to(dtype)
    made.save_pretrained(directory)
    save_tokenizer(directory, tells_pairs=kind in TELL_PAIRS)
    return PooledModel(directory, made, kind, None, False, 120)


def save_token_classifier(
    directory: Path, kind: str, rng: np.random.Generator, *, dtype: torch.dtype = torch.float32, **changes: Any
) -> PooledModel:
    """A classifier of single tokens, of two labels or more."""
    changes = {"num_labels": int(rng.integers(2, 6)), **changes}
    made = _random_model(kind, "ForTokenClassification", rng, changes).to(dtype)
    made.save_pretrained(directory)
    save_tokenizer(directory, tells_pairs=kind in TELL_PAIRS)
    return PooledModel(directory, made, kind, None, False, 120)


def save_tokenizer(directory: Path, *, tells_pairs: bool) -> tokenizers.Tokenizer:
    """As BERT's, with the padding and the truncation of whoever saved it. `tells_pairs`: the model sees which of two
    texts a token is of."""
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCAB_SIZE, special_tokens=list(SPECIAL), show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    ends = [("<s>", 0), ("</s>", 2)]
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B:1 </s>:1", ends)
    backend.enable_truncation(7)
    backend.enable_padding(length=9, pad_id=1, pad_token="<pad>")
    backend.save(str(directory / "tokenizer.json"))
    named = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    names = ["input_ids", *(["token_type_ids"] if tells_pairs else []), "attention_mask"]
    inputs = {"model_input_names": names}
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **named, **inputs})
    backend.no_truncation()
    backend.no_padding()
    return backend


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def _random_model(kind: str, head: str, rng: np.random.Generator, changes: Mapping[str, Any]) -> PreTrainedModel:
    torch.manual_seed(int(rng.integers(1 << 31)))
    config = random_config(kind, CLASSES[kind], VOCAB_SIZE, rng, changes)
    encoder = "Encoder" if kind in T5_LIKE else ""
    made = getattr(transformers, f"{CLASSES[kind]}{encoder}{head}")._from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )
    randomize(made)
    made.eval()
    return made
