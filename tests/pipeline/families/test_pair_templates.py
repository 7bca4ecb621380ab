"""Templates of pairs that are given, or are of a classifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tokenizers

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.errors import RequestError
from inflight.runtime import LLM
from tests.engines.reranker_engines import built, scores
from tests.models.families.pooled import save_cross_encoder, write_json
from tests.models.families.rerankers import save_files, save_reranker

pytestmark = pytest.mark.pipeline


def test_classifiers_may_have_a_template_too(tmp_path: Path, rng: np.random.Generator) -> None:
    """Of their own files, or one that is given: around that stand the special tokens, as with vLLM."""
    directory = save_cross_encoder(tmp_path / "model", "qwen3", rng).directory
    backend = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    backend.no_padding()
    backend.no_truncation()
    way = {"method": "forward", "method_output_name": "logits", "format": "flat"}
    chat = {"add_generation_prompt": True, "chat_template": "pairs", "restore_suffix": False}
    module = {"modality_config": {"text": way, "message": way}, "processing_kwargs": {"chat_template": chat}}
    write_json(directory / "sentence_bert_config.json", module)
    write_json(directory / "modules.json", [{"path": "", "type": "sentence_transformers.base.modules.Transformer"}])
    (directory / "additional_chat_templates").mkdir()
    source = "{% for role in ('query', 'document') %}{{ role }} {% endfor %}"
    source += "{% for each in messages %}{{ each.content }} {% endfor %}{% if add_generation_prompt %}fox{% endif %}"
    (directory / "additional_chat_templates" / "pairs.jinja").write_text(source)
    convert_model(directory, tmp_path / "checkpoint")
    build_engine(tmp_path / "checkpoint", tmp_path / "engine", make_recipe("reference"))
    with LLM(tmp_path / "engine", threads=1) as llm:
        _, (ids,) = scores(llm, "a", ["dog"], instruction="lazy")
    assert ids == backend.encode("query document lazy a dog fox", add_special_tokens=False).ids
    with LLM(
        tmp_path / "engine", threads=1, chat_template="{{ messages[1].content }} {{ messages[0].content }}"
    ) as llm:
        _, (ids,) = scores(llm, "a", ["dog"])
    assert ids == backend.encode("dog a").ids


def test_templates_may_refuse_other_messages_and_must_show_both_texts(tmp_path: Path, rng: np.random.Generator) -> None:
    own = save_reranker(tmp_path / "model", "qwen3", rng)
    save_files(own)
    engine = built(own, tmp_path)
    strict = (
        "{% for each in messages %}{% if each.role not in ('query', 'document') %}{{ raise_exception('unheard of') }}"
        "{% endif %}{{ each.role }}: {{ each.content }}{% endfor %}?"
    )
    with LLM(engine, threads=1, chat_template=strict) as llm:
        # What begins and ends as the template does is no pair that was put into it.
        assert scores(llm, "query: fox", ["a dog?"])[1] == [own.ids("query: query: foxdocument: a dog??")]
        assert scores(llm, "query: fox", ["document: a dog?"])[1] == [own.ids("query: foxdocument: a dog?")]
        with pytest.raises(RequestError, match="takes no instruction"):
            llm.score("fox", "dog", instruction="animals", use_tqdm=False)
    for place, missing in enumerate(("document", "query")):
        one = f"{{{{ messages[{place}].content }}}} {{{{ instruct }}}}"
        shows = pytest.raises(RequestError, match=f"does not show the {missing} of a pair")
        with LLM(engine, threads=1, chat_template=one) as llm, shows:
            llm.score("fox", "dog", use_tqdm=False)
