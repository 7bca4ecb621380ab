"""Turn a docstring's imperative ("Split the extension from a pathname.") into what its function does ("splits ...")."""

from __future__ import annotations

_VERBS = """
abort accept acquire add allow append apply arrange assert attach block byte-compile call cancel cast change check
choose clear close collapse collect compare compile compress compute concatenate configure connect construct
continue convert copy create debug decode decompress delegate delete deserialize determine disable disassemble
discard dispatch display divide do dump duplicate emit enable encode enter escape evaluate execute exit expand
extend extract feed fetch fill find finish flush force fork format free generate get guess handle import indicate
initialize insert install interpret invoke iterate join kill list load lock look make mark match merge modify move
normalize obtain open override pack pad parse partition perform place pop prepare print process produce provide push
put quote raise read receive reformat register release reload remove rename replace report represent request reset
resolve restore retrieve return reverse round run save scan schedule search send serialize serve set shuffle skip
sort split start stop store strip submit take terminate test transfer transform translate transmit truncate try turn
unlock unregister update upgrade use verify visit wait wake walk wrap write yield
"""
VERBS = frozenset(_VERBS.split())


def third_person(description: str) -> str:
    """The description as a verb phrase in the third person, without its full stop; "" where it is not an imperative."""
    words = description.rstrip(".").split()
    adverbs = 1 if words[0].endswith("ly") and len(words) > 1 else 0
    verb = words[adverbs].lower()
    if verb in VERBS:
        verb = _conjugated(verb)
    elif verb not in _THIRD_PERSON:
        return ""
    return " ".join([*(word.lower() for word in words[:adverbs]), verb, *words[adverbs + 1 :]])


def _conjugated(verb: str) -> str:
    if verb.endswith(("s", "sh", "ch", "x", "z", "do")):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


_THIRD_PERSON = frozenset(map(_conjugated, VERBS))
