"""The forms of structural tags: their grammar lets through what a regular expression of the same form matches."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken

from inflight.errors import RequestError
from inflight.runtime import StructuredOutputs
from inflight.runtime.executors.null.executor import null_manifest
from inflight.runtime.structured.compiler import GrammarCompiler
from inflight.runtime.text.tokenizer import Tokenizer
from tests.models.tiny_tokenizers import byte_level

pytestmark = pytest.mark.unit

# No mark has a letter that another one or the free text has in it, so that the oracle need not know what comes first.
WORDS, MARKS = ["fox", "dog", "a b", "\n"], ["<x>", "[y]", "{z}"]
LETTERS = 'fodab \n<>x[]y{}z"1'
# What may stand behind JSON, or not: it depends on what follows.
BLANKS = r"[ \n\r\t]*"
Form = dict[str, Any]


@pytest.fixture(scope="module", params=["text", "tokens"])
def compiler(request: pytest.FixtureRequest) -> tuple[GrammarCompiler, Tokenizer]:
    """Marks that are text, or special tokens."""
    backend = byte_level()
    if request.param == "tokens":
        backend.add_special_tokens([AddedToken(each, special=True) for each in MARKS])
    tokenizer = Tokenizer(backend)
    size = tokenizer.vocab_size
    manifest = null_manifest(vocab_size=size, end_token_ids=(size - 1 - len(MARKS),))
    return GrammarCompiler(lambda: tokenizer, manifest), tokenizer


def random_form(rng: np.random.Generator, depth: int, marks: list[str]) -> Form:
    """`marks` are those that may still be used inside of it."""
    kinds = ["const_string", "json_schema", "regex", "grammar"]
    if depth:
        kinds += ["sequence", "or", "optional", "star", "repeat", "plus", *(["tag", "tag"] if marks else [])]
    kind = str(rng.choice(kinds))

    def inner(left: list[str] = marks) -> Form:
        return random_form(rng, depth - 1, left)

    if kind == "tag":
        mark, *left = marks
        free = {"type": "any_text"} | ({"excludes": ["dog"]} if rng.random() < 0.5 else {})
        content = free if rng.random() < 0.5 else inner(left)
        return {
            "type": "tag",
            "begin": mark,
            "content": content,
            "end": [f"/{mark}"] if rng.random() < 0.5 else f"/{mark}",
        }
    forms: dict[str, Form] = {
        "const_string": {"value": str(rng.choice(WORDS))},
        "json_schema": {"json_schema": {"enum": ["fox", 1]}},
        "regex": {"pattern": "(fo|x1)"},
        "grammar": {"grammar": 'root ::= "ab" | "1" "b"' if rng.random() < 0.5 else 'start: "ab" | "1" "b"'},
        "sequence": {"elements": [inner() for _ in range(rng.integers(1, 4))]} if depth else {},
        "or": {"elements": [inner() for _ in range(rng.integers(1, 3))]} if depth else {},
        "repeat": {"content": inner(), "min": 1, "max": int(rng.choice([2, -1]))} if depth else {},
        **({each: {"content": inner()} for each in ("optional", "star", "plus")} if depth else {}),
    }
    return {"type": kind, **forms[kind]}


def pattern(form: Form, ends: str = "") -> str:
    """A regular expression; `ends` is one of what follows."""
    kind = form["type"]
    if kind == "any_text":
        excludes = "".join(f"(?!{re.escape(each)})" for each in form.get("excludes", ()))
        return f"(?s:(?!{ends}){excludes}.)*{ends}" if ends else f"(?s:{excludes}.)*"
    if kind == "tag":
        end = [form["end"]] if isinstance(form["end"], str) else form["end"]
        return (
            f"{re.escape(form['begin'])}{pattern(form['content'], '(?:' + '|'.join(map(re.escape, end)) + ')')}{ends}"
        )
    inner = [pattern(each) for each in form.get("elements", [form["content"]] if "content" in form else [])]
    own: dict[str, Callable[[], str]] = {
        "const_string": lambda: re.escape(form["value"]),
        "json_schema": lambda: f'{BLANKS}(?:"fox"|1){BLANKS}',
        "regex": lambda: form["pattern"],
        "grammar": lambda: "(?:ab|1b)",
        "sequence": lambda: "".join(inner),
        "or": lambda: f"(?:{'|'.join(inner)})",
        "optional": lambda: f"(?:{inner[0]})?",
        "star": lambda: f"(?:{inner[0]})*",
        "plus": lambda: f"(?:{inner[0]})+",
        "repeat": lambda: f"(?:{inner[0]}){{1,{form.get('max') if form.get('max') != -1 else ''}}}",
    }
    return f"(?:{own[kind]()}){ends}"


def walk(
    compiler: tuple[GrammarCompiler, Tokenizer], form: Form, rng: np.random.Generator, most: int = 60
) -> str | None:
    """A text that the grammar lets through; None: it came to no end."""
    grammars, tokenizer = compiler
    grammar = grammars.compile(StructuredOutputs(structural_tag={"format": form}))
    end = tokenizer.vocab_size - 1 - len(MARKS)
    ids: list[int] = []
    while len(ids) < most:
        mask = grammar.mask()
        assert mask is not None and grammar.failure is None
        allowed = np.flatnonzero(
            np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")[: tokenizer.vocab_size]
        )
        if grammar.ended or (end in allowed and (rng.random() < 0.3 or len(allowed) == 1)):
            return tokenizer.decode(ids, skip_special_tokens=False)
        likely = [each for each in allowed if each != end and tokenizer.token_text(int(each))[:1] in LETTERS]
        ids.append(int(rng.choice(likely or [each for each in allowed if each != end])))
        grammar.accept(ids[-1])
    return None


def lets_through(compiler: tuple[GrammarCompiler, Tokenizer], form: Form, text: str) -> bool:
    grammars, tokenizer = compiler
    grammar = grammars.compile(StructuredOutputs(structural_tag={"format": form}))
    end = tokenizer.vocab_size - 1 - len(MARKS)
    for token in tokenizer.encode(text, add_special_tokens=False):
        bits = int.from_bytes(grammar.mask() or b"", "little")
        if grammar.ended or not bits >> token & 1:
            return False
        grammar.accept(token)
    return grammar.ended or bool(int.from_bytes(grammar.mask() or b"", "little") >> end & 1)


def test_what_is_let_through_is_of_the_form(
    compiler: tuple[GrammarCompiler, Tokenizer], rng: np.random.Generator
) -> None:
    ended = 0
    for _ in range(60):
        form = random_form(rng, 3, MARKS)
        wanted = re.compile(pattern(form))
        strict = re.compile(wanted.pattern.replace(BLANKS, ""))
        text = walk(compiler, form, rng)
        if text is None:
            continue
        ended += 1
        # The compiler lets the blanks in front of JSON stand where no JSON follows, which may have been left out.
        without = re.compile(re.sub(r"\\?[ \n]", "", strict.pattern))
        loosely = "json_schema" in str(form) and without.fullmatch(re.sub(BLANKS, "", text))
        assert wanted.fullmatch(text) or loosely, (form, text)
        at = int(rng.integers(len(text) + 1))
        other = text[:at] + str(rng.choice(list(LETTERS))) + text[at + int(rng.integers(2)) :]
        if not any(mark[0] in other.replace(mark, "") for mark in MARKS):
            possible = {bool(each.fullmatch(other)) for each in (strict, wanted)}
            assert lets_through(compiler, form, other) in possible, (form, other)
    assert ended > 20


TAGS = [
    {"begin": f"<x>{word}", "content": {"type": "json_schema", "json_schema": {"const": word}}, "end": "[y]"}
    for word in ("fox", "dog")
]


ONE = {"at_least_one": True, "stop_after_first": True}


@pytest.mark.parametrize(
    ("form", "texts", "others"),
    [
        (
            {"type": "triggered_tags", "triggers": ["<x>"], "tags": TAGS},
            ["", "a b", 'a<x>fox"fox"[y]', '<x>dog"dog"[y]b<x>fox"fox"[y]a'],
            ["a<x>", '<x>dog"fox"[y]', '<x>fox"fox"'],
        ),
        (
            {"type": "triggered_tags", "triggers": ["<x>"], "tags": TAGS, "at_least_one": True},
            ['<x>fox"fox"[y]', '<x>fox"fox"[y]a<x>dog"dog"[y]b'],
            ["", "a", 'a<x>fox"fox"[y]'],
        ),
        (
            {"type": "triggered_tags", "triggers": ["<x>"], "tags": TAGS, "stop_after_first": True},
            ["a", 'b<x>fox"fox"[y]'],
            ['b<x>fox"fox"[y]a'],
        ),
        (
            {"type": "triggered_tags", "triggers": ["<x>"], "tags": TAGS, **ONE},
            ['<x>fox"fox"[y]'],
            ["", 'b<x>fox"fox"[y]', '<x>fox"fox"[y]a'],
        ),
        (
            {"type": "triggered_tags", "triggers": ["<x>"], "tags": TAGS, "excludes": ["ab"]},
            ["ba", 'b<x>fox"fox"[y]a'],
            ["fab", 'ab<x>fox"fox"[y]a'],
        ),
        (
            {
                "type": "tag",
                "begin": "{z}",
                "content": {"type": "triggered_tags", "triggers": ["<x>"], "tags": TAGS},
                "end": "/z",
            },
            ["{z}/z", "{z}a/z", '{z}a<x>fox"fox"[y]b/z'],
            ["{z}a", "{z}a/zb", '{z}a<x>fox"dog"[y]/z'],
        ),
        (
            {"type": "tags_with_separator", "tags": TAGS, "separator": ", "},
            ["", '<x>fox"fox"[y]', '<x>fox"fox"[y], <x>dog"dog"[y]'],
            ["a", '<x>fox"fox"[y]<x>dog"dog"[y]', '<x>fox"fox"[y], '],
        ),
        (
            {"type": "tags_with_separator", "tags": TAGS, "separator": ",", **ONE},
            ['<x>fox"fox"[y]'],
            ["", '<x>fox"fox"[y],<x>dog"dog"[y]'],
        ),
        (
            {
                "type": "sequence",
                "elements": [
                    {"type": "tag", "begin": "<x>", "content": {"type": "any_text", "max_chars": 3}, "end": "[y]"},
                    {"type": "any_text"},
                    {"type": "const_string", "value": "!"},
                    {"type": "any_text", "excludes": ["!"]},
                ],
            },
            ["<x>abc[y]!", "<x>[y]a!b"],
            ["<x>abcd[y]!", "<x>a[y]a!b!", "<x>a[y]a"],
        ),
    ],
)  # fmt: skip
def test_tags_and_free_text(
    compiler: tuple[GrammarCompiler, Tokenizer], form: Form, texts: list[str], others: list[str]
) -> None:
    for text in texts:
        assert lets_through(compiler, form, text), text
    for text in others:
        assert not lets_through(compiler, form, text), text


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (7, "format must be an object"),
        ({"type": "verse"}, "format has the type 'verse'"),
        ({"type": "dispatch", "rules": []}, "'dispatch', which is not supported"),
        ({"type": "const_string"}, "format.value is None; a string is needed"),
        ({"type": "const_string", "value": "a", "verse": 1}, "format has a field 'verse'"),
        ({"type": "json_schema", "json_schema": {}, "style": "qwen_xml"}, "a style or any_order"),
        ({"type": "sequence", "elements": [{"type": "or", "elements": []}]}, "format.elements.0.elements is empty"),
        ({"type": "star", "content": {"type": "any_text"}}, "format.content is text without an end"),
        ({"type": "any_text", "max_tokens": 3}, "has max_tokens"),
        ({"type": "any_text", "max_chars": -1}, "must be 0 or more"),
        ({"type": "repeat", "min": 2, "max": 1, "content": {"type": "const_string", "value": "a"}}, "2 to 1 times"),
        ({"type": "repeat", "min": True, "max": 1, "content": {}}, "format.min is True; an integer is needed"),
        ({"type": "token", "token": "verse"}, "no special token"),
        ({"type": "token", "token": -1}, "no special token"),
        ({"type": "tag", "begin": "a", "content": {"type": "any_text"}, "end": []}, "format.end is empty"),
        ({"type": "tag", "begin": "a", "content": {"type": "any_text"}, "end": ["", "b"]}, "format.end must be texts"),
        ({"type": "triggered_tags", "triggers": ["a"], "tags": TAGS}, "format.tags.0 begins with '<x>fox'"),
        ({"type": "triggered_tags", "triggers": ["<x>", "b"], "tags": TAGS}, "begins with the trigger 'b'"),
        ({"type": "triggered_tags", "triggers": [""], "tags": TAGS}, "format.triggers must be strings"),
        ({"type": "grammar", "grammar": "root ::= ("}, "cannot be used|neither Lark nor GBNF"),
        ({"type": "regex", "pattern": "("}, "cannot be used"),
    ],
)  # fmt: skip
def test_what_is_no_form_is_refused_with_its_place(
    compiler: tuple[GrammarCompiler, Tokenizer], form: Any, words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        compiler[0].compile(StructuredOutputs(structural_tag={"format": form}))


def test_a_token_is_met_by_its_id(compiler: tuple[GrammarCompiler, Tokenizer]) -> None:
    tokenizer = compiler[1]
    token_id = tokenizer.token_id("<x>")
    if token_id is None:
        pytest.skip("the mark is text here")
    for token in ("<x>", token_id):
        mark = {"type": "token", "token": token}
        form = {"type": "tag", "begin": mark, "content": {"type": "any_text"}, "end": {"type": "token", "token": "[y]"}}
        assert lets_through(compiler, form, "<x>a b[y]") and not lets_through(compiler, form, "a<x>[y]")
        sequence = {"type": "sequence", "elements": [mark, {"type": "const_string", "value": "a"}]}
        assert lets_through(compiler, sequence, "<x>a") and not lets_through(compiler, sequence, "a")
