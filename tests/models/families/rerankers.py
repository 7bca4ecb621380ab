"""Tiny random generators that score pairs by the logits of tokens, written to disk as they are downloaded, and what
they make of a pair: transformers' own logits behind the prompt that their model cards have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel

from tests.models.families.further import randomize
from tests.models.families.pooled import write_json
from tests.models.tiny_tokenizers import CORPUS

SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
SPECIAL = ("<bos>", "<pad>", "<eos>", "<unk>", "<|im_start|>", "<|im_end|>")
WORDS = ("yes", "no", "Yes", "0", "1", "<think>", "</think>")
# Of Qwen3-Reranker's own files.
OWN_TEMPLATE = (
    '{%- set asked = messages | selectattr("role", "eq", "system") | map(attribute="content") | first'
    f' | default("{SEARCH}") -%}}\n'
    '{%- set query = messages | selectattr("role", "eq", "query") | map(attribute="content") | first -%}\n'
    '{%- set document = messages | selectattr("role", "eq", "document") | map(attribute="content") | first -%}\n'
    "<|im_start|>system\nJudge.<|im_end|>\n<|im_start|>user\n<Instruct>: {{ asked }}\n<Query>: {{ query }}\n"
    "<Document>: {{ document }}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n\n"
)
FRONT = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
BEHIND = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


class Kind(NamedTuple):
    """A class of transformers, and the tokens by which it scores, that of a relevant pair first."""

    name: str
    tokens: tuple[str, ...]


KINDS = {"qwen3": Kind("Qwen3", ("yes", "no")), "gemma": Kind("Gemma", ("Yes",)), "qwen2": Kind("Qwen2", ("1", "0"))}


@dataclass(frozen=True)
class Reranker:
    directory: Path
    model: PreTrainedModel
    kind: str
    tokenizer: Any

    def raw_scores(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """Logits of the first token behind each text, less those of the second one, in float64."""
        wide = type(self.model)(self.model.config).to(torch.float64)
        wide.load_state_dict(self.model.state_dict())
        wide.eval()
        ids = [self.tokenizer.convert_tokens_to_ids(token) for token in KINDS[self.kind].tokens]
        found = []
        for text in texts:
            with torch.no_grad():
                logits = wide(torch.tensor([list(text)])).logits[0, -1]
            found.append(float(logits[ids[0]] - (logits[ids[1]] if len(ids) > 1 else 0.0)))
        return found

    def ids(self, text: str) -> list[int]:
        return [int(each) for each in self.tokenizer(text, add_special_tokens=False)["input_ids"]]


def prompt(kind: str, query: str, document: str, instruction: str | None = None) -> str:
    """As the model card of Qwen3-Reranker has it, FlagEmbedding for bge-reranker-v2-gemma, and mxbai-rerank."""
    if kind == "qwen3":
        asked = f"<Instruct>: {instruction or SEARCH}\n<Query>: {query}\n<Document>: {document}"
        return FRONT + asked + BEHIND
    if kind == "gemma":
        task = (
            "Given a query A and a passage B, determine whether the passage contains an answer to the query by "
            "providing a prediction of either 'Yes' or 'No'."
        )
        return f"<bos>A: {query}\nB: {document}\n{instruction or task}"
    said = f"instruction: {instruction}\n" if instruction else ""
    return (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{said}query: {query}\ndocument: {document}\nYou are a search relevance expert who "
        "evaluates how well documents match search queries. For each query-document pair, carefully analyze the "
        "semantic relationship between them, then provide your binary relevance judgment (0 for not relevant, 1 for "
        "relevant).\nRelevance:<|im_end|>\n<|im_start|>assistant\n"
    )


def save_reranker(
    directory: Path, kind: str, rng: np.random.Generator, *, dtype: torch.dtype = torch.float32, **changes: Any
) -> Reranker:
    """A generator, of which nothing says that it scores. `changes` are values of its config."""
    torch.manual_seed(int(rng.integers(1 << 31)))
    heads, size = int(rng.choice([1, 2, 3])), 8 * int(rng.integers(1, 5))
    directory.mkdir(parents=True)
    backend = _save_tokenizer(directory, begins=kind == "gemma")
    values = {
        "vocab_size": backend.get_vocab_size() + int(rng.integers(1, 9)),
        "hidden_size": heads * size,
        "num_hidden_layers": int(rng.integers(1, 4)),
        "num_attention_heads": heads,
        "num_key_value_heads": 1,
        "head_dim": size,
        "intermediate_size": int(rng.choice([56, 104, 200])),
        "max_position_embeddings": 900,
        "tie_word_embeddings": bool(rng.random() < 0.5),
        **{f"{name}_token_id": SPECIAL.index(f"<{name}>") for name in ("bos", "pad", "eos")},
    }
    config = getattr(transformers, f"{KINDS[kind].name}Config")(**{**values, **changes})
    made = getattr(transformers, f"{KINDS[kind].name}ForCausalLM")._from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )
    randomize(made)
    made.to(dtype).eval()
    made.save_pretrained(directory)
    return Reranker(directory, made, kind, transformers.PreTrainedTokenizerFast.from_pretrained(directory))


def save_files(reranker: Reranker, template: str | None = OWN_TEMPLATE, **transformer: Any) -> None:
    """Beside it those of sentence-transformers, as Qwen3-Reranker has them. No `template`: its texts are joined.
    `transformer`: further keys of its module's config."""
    directory, tokens = reranker.directory, KINDS[reranker.kind].tokens
    way = {"method": "forward", "method_output_name": "logits"}
    modalities = {"text": way, **({} if template is None else {"message": {**way, "format": "flat"}})}
    types = {"": "base.modules.transformer.Transformer", "1_LogitScore": "cross_encoder.modules.logit_score.LogitScore"}
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.{name}"}
        for index, (path, name) in enumerate(types.items())
    ]
    ids = [reranker.tokenizer.convert_tokens_to_ids(token) for token in tokens]
    write_json(directory / "modules.json", listed)
    (directory / "1_LogitScore").mkdir()
    score = dict(zip(("true_token_id", "false_token_id"), [*ids, None], strict=False))
    write_json(directory / "1_LogitScore" / "config.json", score)
    module = {"transformer_task": "text-generation", "module_output_name": "causal_logits"}
    write_json(directory / "sentence_bert_config.json", {**module, "modality_config": modalities, **transformer})
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)


def _save_tokenizer(directory: Path, *, begins: bool) -> tokenizers.Tokenizer:
    """As Qwen's; `begins`: with a token in front of every text, as Gemma's."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=alphabet, special_tokens=list(SPECIAL), show_progress=False
    )
    backend.train_from_iterator([*CORPUS, FRONT, BEHIND], trainer)
    backend.add_tokens(list(WORDS))
    if begins:
        backend.post_processor = processors.TemplateProcessing("<bos> $A", "<bos> $A $B", [("<bos>", 0)])
    backend.save(str(directory / "tokenizer.json"))
    named = {f"{name}_token": f"<{name}>" for name in ("bos", "pad", "eos", "unk")}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left", **named}
    write_json(directory / "tokenizer_config.json", config)
    return backend
