"""Grammars for llguidance (https://github.com/guidance-ai/llguidance): compiled once for each structured output.

llguidance walks the tokens of the vocabulary, as bytes, along an Earley parser with a lexer of regular expressions. It
is imported when the first structured output is asked for.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from inflight.engine_format.manifest import EngineManifest
from inflight.errors import RequestError
from inflight.runtime.structured.first_blank import FirstBlankGrammar, behind_a_blank
from inflight.runtime.structured.grammar import Grammar
from inflight.runtime.structured.json_grammar import one_of
from inflight.runtime.structured.outputs import StructuredOutputs
from inflight.runtime.structured.reasoning import ReasoningFirst
from inflight.runtime.structured.reasoning_grammar import ReasoningGrammar, ReasoningPlan
from inflight.runtime.structured.refusals import NO_TEXT, refusal
from inflight.runtime.structured.schemas import followable, json_options
from inflight.runtime.structured.structural_tags import tag_grammar
from inflight.runtime.structured.vocabulary import Vocabulary
from inflight.runtime.text.tokenizer import Tokenizer
from inflight.runtime.text.words import ids_inside_a_text

if TYPE_CHECKING:
    from llguidance import LLTokenizer

Key = TypeVar("Key", bound=Hashable)
Made = TypeVar("Made")

# Compiled grammars that are kept, the least recently used goes first. One takes some 100 kB.
_KEPT = 256
# What one schema may cost: about 100 ms and 50 MB when it is compiled, and 15 ms in a step.
_LIMITS = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}


class GrammarCompiler:
    """Compiles structured outputs for the vocabulary of an engine. Safe to use from many threads.

    `tokenizer` is asked for when it is needed. The engine's end tokens are allowed where the text may end.
    """

    def __init__(self, tokenizer: Callable[[], Tokenizer], manifest: EngineManifest) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = manifest.model.vocab_size
        self._end_ids = list(manifest.generation.end_token_ids)
        # Guards what is known and is held for a moment; the other while something is made, which may take a second.
        # Who asks for what is known, on a thread that others wait for, never waits for that.
        self._lock, self._making = threading.Lock(), threading.Lock()
        self._vocabulary: LLTokenizer | None = None
        self._words: Vocabulary | None = None
        self._compiled: OrderedDict[StructuredOutputs, Grammar] = OrderedDict()
        self._plans: OrderedDict[ReasoningFirst, ReasoningPlan] = OrderedDict()

    def prepare(self) -> None:
        """Begin to read the vocabulary on a thread of its own, before it is needed: for a large one it takes a second.

        What goes wrong is said to the first request that needs it.
        """
        # A process that ends waits for it: llguidance must not be within Python when that is taken down.
        threading.Thread(target=self._prepare, name="inflight-vocabulary").start()

    def _prepare(self) -> None:
        with self._making, contextlib.suppress(Exception):
            self._read_vocabulary()

    def compile(self, outputs: StructuredOutputs | None, reasoning: ReasoningFirst | None = None) -> Grammar:
        """The beginning of the grammar, for one sequence: that of `outputs`, behind what `reasoning` lets come first.
        One of the two must be there.

        Raises RequestError for what is no schema, regular expression or grammar, can never be met, or costs too much.
        """
        grammar = None if outputs is None else self._kept(self._compiled, outputs, self._compile)
        if grammar is not None:
            with self._lock:
                grammar = grammar.copy()
        if reasoning is None:
            assert grammar is not None, "there is nothing to compile"
            return grammar
        plan = self._kept(self._plans, replace(reasoning, budget=None), self._plan)
        return ReasoningGrammar(plan, reasoning.budget, grammar)

    def _kept(self, kept: OrderedDict[Key, Made], key: Key, make: Callable[[Key], Made]) -> Made:
        """What was made of `key`, or is made now; the least recently used goes."""
        found = self._known(kept, key)
        if found is not None:
            return found
        with self._making:
            # Another thread may have made it meanwhile.
            found = self._known(kept, key)
            if found is None:
                found = make(key)
                with self._lock:
                    kept[key] = found
                    if len(kept) > _KEPT:
                        kept.popitem(last=False)
        return found

    def _known(self, kept: OrderedDict[Key, Made], key: Key) -> Made | None:
        with self._lock:
            if key in kept:
                kept.move_to_end(key)
            return kept.get(key)

    def _plan(self, reasoning: ReasoningFirst) -> ReasoningPlan:
        self._read_vocabulary()
        assert self._words is not None
        tokenizer = self._tokenizer()
        opening, forced = (
            _spelled(tokenizer, text, self._vocab_size) for text in (reasoning.opening, reasoning.forced)
        )
        words = self._words.tokens[: self._vocab_size]
        return ReasoningPlan.of(reasoning, words, self._words.end_ids, opening, forced)

    def _compile(self, outputs: StructuredOutputs) -> Grammar:
        self._read_vocabulary()
        assert self._words is not None
        try:
            text = _grammar_text(outputs, self._tokenizer())
        except (ValueError, RecursionError) as error:
            raise refusal(outputs, str(error), self._why_not) from None
        grammar = self._begun(text)
        if isinstance(grammar, Grammar) and (first_tokens := self._words.first_tokens) is not None:
            grammar = FirstBlankGrammar(grammar, self._begun(behind_a_blank(text)), first_tokens)
            grammar = grammar if any(grammar.mask() or b"") else NO_TEXT
        if isinstance(grammar, str):
            raise refusal(outputs, grammar, self._why_not)
        return grammar

    def _why_not(self, part: StructuredOutputs) -> str | None:
        """Why a part of what was refused cannot be used by itself; None: it can."""
        try:
            found = self._begun(_grammar_text(part, self._tokenizer()))
        except RequestError as error:
            return error.message
        except (ValueError, RecursionError) as error:
            return str(error)
        return found if isinstance(found, str) else None

    def _begun(self, text: str) -> Grammar | str:
        """The beginning of a grammar, or why nothing can begin it."""
        assert self._vocabulary is not None and self._words is not None
        import llguidance

        try:
            limits: Any = llguidance.LLParserLimits(**_LIMITS)
            matcher = llguidance.LLMatcher(self._vocabulary, text, log_level=0, limits=limits)
        except (ValueError, RecursionError) as error:
            return str(error)
        # What has no first token shows when one is looked for.
        if matcher.is_error() or not any(matcher.compute_bitmask()) or matcher.is_error():
            return matcher.get_error() or NO_TEXT
        return Grammar(matcher, _mask_bytes(self._vocab_size), _mask_bytes(len(self._words.tokens)))

    def _read_vocabulary(self) -> None:
        if self._vocabulary is None:
            try:
                import llguidance
            except ImportError:
                raise RequestError(
                    "Structured output needs llguidance, which is not installed.", "pip install llguidance==1.9.1"
                ) from None
            self._words = words = Vocabulary(self._tokenizer(), self._vocab_size, self._end_ids)
            # llguidance leaves out tokens of no bytes at the end unless it is told how many there are.
            self._vocabulary = llguidance.LLTokenizer(
                llguidance.TokenizerWrapper(words), n_vocab=len(words.tokens), eos_token=words.end_ids
            )


def _mask_bytes(num_tokens: int) -> int:
    """A bit for each, in words of 32."""
    return -(-num_tokens // 32) * 4


def _spelled(tokenizer: Tokenizer, marker: str, vocab_size: int) -> list[int]:
    ids = ids_inside_a_text(tokenizer, marker) or tokenizer.encode(marker, add_special_tokens=False)
    if any(token_id >= vocab_size for token_id in ids) or tokenizer.decode(ids, False).strip() != marker.strip():
        raise RequestError(f"The marker of reasoning {marker!r} cannot be spelled in this model's vocabulary.")
    return ids


def _grammar_text(outputs: StructuredOutputs, tokenizer: Tokenizer) -> str:
    """What llguidance reads."""
    import llguidance

    if outputs.json_object:
        return _json_text({"type": "object"})
    if outputs.json is not None:
        return _json_text(followable(json.loads(outputs.value)))
    if outputs.structural_tag is not None:
        return tag_grammar(json.loads(outputs.value), tokenizer)
    if outputs.choice is not None:
        return str(llguidance.LLMatcher.grammar_from_lark(f"start: {one_of(outputs.choice)}"))
    return str(llguidance.grammar_from("regex" if outputs.regex is not None else "grammar", outputs.value))


def _json_text(schema: Mapping[str, Any]) -> str:
    import llguidance

    return str(llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=json_options(schema)))
