"""Grammars for llguidance (https://github.com/guidance-ai/llguidance): compiled once for each structured output.

llguidance walks the tokens of the vocabulary, as bytes, along an Earley parser with a lexer of regular expressions. It
is imported when the first structured output is asked for.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from inflight.engine_format.manifest import EngineManifest
from inflight.errors import RequestError
from inflight.runtime.structured.grammar import Grammar
from inflight.runtime.structured.outputs import StructuredOutputs
from inflight.runtime.structured.schemas import followable
from inflight.runtime.structured.vocabulary import Vocabulary
from inflight.runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

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
# Blank space between the parts of JSON. Without a bound a model that likes blanks never comes to an end.
_JSON = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,32}"}
_NO_TEXT = "no text meets it"
_AS_GBNF = "Failed to convert the grammar from GBNF to Lark:"
# What the compiler says where no token can come first.
_NO_TOKEN = "NoExtensionBias"
# It advises an option that no client can set.
_ONE_OF = re.compile(r"oneOf constraints are not supported\. Enable 'coerce_one_of'[^.\n]*")


class GrammarCompiler:
    """Compiles structured outputs for the vocabulary of an engine. Safe to use from many threads.

    `tokenizer` is asked for when it is needed. The engine's end tokens are allowed where the text may end.
    """

    def __init__(self, tokenizer: Callable[[], Tokenizer], manifest: EngineManifest) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = manifest.model.vocab_size
        self._end_ids = list(manifest.generation.end_token_ids)
        self._lock = threading.Lock()
        self._vocabulary: LLTokenizer | None = None
        self._compiled: OrderedDict[StructuredOutputs, Grammar] = OrderedDict()

    def prepare(self) -> None:
        """Begin to read the vocabulary on a thread of its own, before it is needed: for a large one it takes a second.

        What goes wrong is said to the first request that needs it.
        """
        threading.Thread(target=self._prepare, name="inflight-vocabulary", daemon=True).start()

    def _prepare(self) -> None:
        with self._lock, contextlib.suppress(Exception):
            self._read_vocabulary()

    def compile(self, outputs: StructuredOutputs) -> Grammar:
        """The beginning of the grammar, for one sequence. Raises RequestError for what is no schema, regular expression
        or grammar, can never be met, or costs too much."""
        with self._lock:
            grammar = self._compiled.get(outputs)
            if grammar is None:
                grammar = self._compile(outputs)
                self._compiled[outputs] = grammar
                if len(self._compiled) > _KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(outputs)
            return grammar.copy()

    def _compile(self, outputs: StructuredOutputs) -> Grammar:
        vocabulary = self._read_vocabulary()
        import llguidance

        try:
            text = _grammar_text(outputs)
            limits: Any = llguidance.LLParserLimits(**_LIMITS)
            matcher = llguidance.LLMatcher(vocabulary, text, log_level=0, limits=limits)
        except (ValueError, RecursionError) as error:
            raise _refused(outputs, str(error)) from None
        # What has no first token shows when one is looked for.
        if matcher.is_error() or not any(matcher.compute_bitmask()) or matcher.is_error():
            raise _refused(outputs, matcher.get_error() or _NO_TEXT)
        return Grammar(matcher, -(-self._vocab_size // 32) * 4)

    def _read_vocabulary(self) -> LLTokenizer:
        if self._vocabulary is None:
            try:
                import llguidance
            except ImportError:
                raise RequestError(
                    "Structured output needs llguidance, which is not installed.", "pip install llguidance==1.9.1"
                ) from None
            words = Vocabulary(self._tokenizer(), self._vocab_size, self._end_ids)
            # llguidance leaves out tokens of no bytes at the end unless it is told how many there are.
            self._vocabulary = llguidance.LLTokenizer(
                llguidance.TokenizerWrapper(words), n_vocab=len(words.tokens), eos_token=words.end_ids
            )
        return self._vocabulary


def _grammar_text(outputs: StructuredOutputs) -> str:
    """What llguidance reads."""
    import llguidance

    if outputs.json_object:
        return str(llguidance.LLMatcher.grammar_from_json_schema({"type": "object"}, defaults=_JSON))
    if outputs.json is not None:
        schema = followable(json.loads(outputs.value))
        return str(llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=_JSON))
    if outputs.choice is not None:
        return str(llguidance.LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, outputs.choice))))
    return str(llguidance.grammar_from("regex" if outputs.regex is not None else "grammar", outputs.value))


def _refused(outputs: StructuredOutputs, reason: str) -> RequestError:
    names = {"json": "JSON schema", "json_object": "JSON object", "regex": "regular expression"}
    reason = reason.replace(_NO_TOKEN, f"{_NO_TEXT}: a rule begins with itself, or the tokens cannot spell it")
    reason = reason.replace(_AS_GBNF, "It has no rule as Lark has them (name: ...), and read as GBNF:")
    reason = _ONE_OF.sub("oneOf needs alternatives of which no two can hold at once; use anyOf", reason)
    # The compiler says by this that its words are short.
    lines = [line.strip() for line in reason.splitlines() if line.strip() and line.strip() != "<non-verbose/>"]
    return RequestError(f"The {names.get(outputs.kind, outputs.kind)} cannot be used: {' '.join(lines)[:500]}")
