"""The ways in which a question is put. Some of each kind are kept from training, to see whether the rest was enough.

`{name}` is the dotted name, `{short}` its last part, `{owner}` the module or class that it belongs to, `{what}`
"function" or "method", `{does}` its description as a verb phrase ("splits the extension from a pathname").
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phrasings:
    """Templates for questions of one kind; no template is in both."""

    training: tuple[str, ...]
    held_out: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return self.training + self.held_out


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


DESCRIBE = Phrasings(
    training=_lines("""
        What does {name} do?
        What is {name}?
        What is {name} for?
        what does {name} do
        What does `{name}` do?
        What does {name} do in Python?
        Explain {name}.
        Explain {name} to me.
        Describe {name}.
        Tell me about {name}.
        Can you tell me what {name} does?
        Could you explain what {name} is?
        What is the purpose of {name}?
        What is {name} used for?
        Summarize {name} in one sentence.
        I saw {name} in some code. What does it do?
        What's {name}?
        {name}?
        Give me a short description of {name}.
        Please describe `{name}`.
        How would you explain {name}?
        What is the role of {name}?
        What is the idea behind {name}?
        What is the meaning of {name}?
        What does {name} mean?
        What is {name} about?
        When would I use {name}?
        Why would I use {name}?
        Define {name}.
        Could you tell me about {name}?
        I want to understand {name}.
        I do not understand {name}. Can you help?
        Help me with {name}.
        Let me know what {name} is.
        In one sentence: what is {name}?
        What kind of thing is {name}?
        Remind me what {name} does.
    """),
    held_out=_lines("""
        Please explain what {name} does.
        What do I use {name} for?
        Can you describe {name} in a sentence?
        I would like to know what {name} does.
        What is the point of {name}?
        Tell me what `{name}` does.
    """),
)

SIGNATURE = Phrasings(
    training=_lines("""
        What is the signature of {name}?
        What's the signature of {name}?
        Show me the signature of {name}.
        Give me the signature of {name}.
        signature of {name}
        What arguments does {name} take?
        Which arguments does {name} accept?
        What parameters does {name} have?
        Which parameters does {name} take?
        List the parameters of {name}.
        What are the arguments of {name}?
        How do I call {name}?
        How is {name} called?
        How do I call `{name}`?
        What can I pass to {name}?
        Write down the signature of `{name}`.
        What does a call of {name} look like?
    """),
    held_out=_lines("""
        Please show the signature of {name}.
        What are the parameters of {name}?
        Tell me the signature of {name}.
        What arguments can I pass to {name}?
    """),
)

MODULE = Phrasings(
    training=_lines("""
        Which module is {short} in?
        What module is {short} in?
        In which module is {short}?
        Which module has {short}?
        Which module contains {short}?
        Where is {short} defined?
        Where do I find {short}?
        Where does {short} come from?
        Which module do I import for {short}?
        What must I import to use {short}?
        From which module do I import {short}?
        Which module does `{short}` belong to?
        module of {short}
        Which part of the standard library has {short}?
        Name the module of {short}.
        Which module offers {short}?
        Which module do I need for {short}?
        Do you know which module {short} is in?
        Where can I import {short} from?
    """),
    held_out=_lines("""
        In what module can I find {short}?
        Which module defines {short}?
        What module do I import {short} from?
        Tell me the module of {short}.
    """),
)

REVERSE = Phrasings(
    training=_lines("""
        Which {what} of {owner} {does}?
        What {what} of {owner} {does}?
        Which {owner} {what} {does}?
        What {what} in {owner} {does}?
        Which {what} in {owner} {does}?
        Name the {what} of {owner} that {does}.
        Tell me the {what} of {owner} that {does}.
        I need a {what} of {owner} that {does}.
        Is there a {what} in {owner} that {does}?
        Find the {what} of {owner} that {does}.
        I am looking for the {what} of {owner} that {does}.
        In {owner}, which {what} {does}?
        In {owner}, what {does}?
        What in {owner} {does}?
        Give me the {what} of {owner} that {does}.
        Which of the {what}s of {owner} {does}?
    """),
    held_out=_lines("""
        What is the {what} of {owner} that {does}?
        Does {owner} have a {what} that {does}?
        Which {what} from {owner} {does}?
        Show me the {what} in {owner} that {does}.
    """),
)

BY_KIND = {"describe": DESCRIBE, "signature": SIGNATURE, "module": MODULE, "reverse": REVERSE}
