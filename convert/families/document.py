"""The page docs/families.md, made of the family table: `python -m inflight.convert.families.document`."""

from __future__ import annotations

from collections.abc import Iterator

from inflight.convert.families.family import Family
from inflight.convert.families.rows.encoders.table import ENCODERS
from inflight.convert.families.table import FAMILIES, LACKING
from inflight.convert.families.text_parts import TEXT_PARTS

_HEAD = """# Model families

The architectures of Hugging Face transformers that `inflight convert` reads, and what their layers are. This page is
generated from the [family table](extending/adding_a_family.md): `python -m inflight.convert.families.document`.

Every one of them is compared with transformers at random odd shapes, on the targets `reference` and `cpu`; target
`cuda` takes every decoder of the first table, compared under an interpreter with the target `reference`; target
`tensorrt` takes those whose operators it has, and names the others when an engine is built. A value of config.json that
changes the mathematics and is not known is refused by its name. Models with code of their own, for which transformers
has no class, are compared with the model of transformers that computes the same, under their names.

What has no row can be served slowly, by [transformers itself](targets/transformers.md).
"""
_TEXT = """
## Models that read pictures as well

Of these the text part is taken, whatever decoder of the table above it is. The tensors of pictures are left out, and
`inflight convert` says how many.
"""


_ENCODERS = """
## Encoders

Models for [embeddings and reranking](formats/embeddings.md). Decoders of the first table embed as well, where
modules.json says how their hidden states are pooled.
"""


_LACKING = """
## What has no row

Classes that generate text in transformers 5, by what they need that is not there; a refusal says it beside the name.
Further ones without a row take pictures or sound, or are encoders with a head for generating.

| needs | classes |
| --- | --- |"""


def document() -> str:
    """The whole page."""
    return "\n".join([*_lines()]) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    yield "| architecture | model_type | layers |"
    yield "| --- | --- | --- |"
    for family in FAMILIES:
        yield f"| `{family.architecture}` | {family.model_type} | {', '.join(_features(family)) or 'as Llama'} |"
    yield _ENCODERS
    yield "| architecture | model_type | layers |"
    yield "| --- | --- | --- |"
    for family in ENCODERS:
        yield f"| `{family.architecture}` | {family.model_type} | {', '.join(_features(family))} |"
    yield _TEXT
    yield "| architecture | model_type | decoder where the config names none |"
    yield "| --- | --- | --- |"
    for part in TEXT_PARTS:
        yield f"| `{part.architecture}` | {part.model_type} | {part.text_type} |"
    yield _LACKING
    for reason, names in LACKING.items():
        yield f"| {reason} | {', '.join(f'`{name}`' for name in names)} |"


def _features(family: Family) -> Iterator[str]:
    """What is not as in Llama."""
    norm = "RMS norm" if family.norm == "rms" else "LayerNorm"
    without = [name for name, there in (("weight", family.norm_weight), ("bias", family.norm_bias)) if not there]
    told = (
        (family.norm == "layer" or without, f"{norm}{' without ' + ' and '.join(without) if without else ''}"),
        (family.norm_offset, "1 + the weights of norms"),
        (family.sandwich_norms, "norms before and after attention and MLP"),
        (family.post_norms, "norms after attention and MLP alone"),
        (family.parallel, "attention and MLP in parallel" + _by_key(family.parallel)),
        (family.qk_norm, "norms of queries and keys" + _where(family)),
        (family.fused or family.transposed, "matrices stored otherwise"),
        (family.interleaved_rope, "neighbours turned (rows reordered)"),
        (family.backward_rope, "turned the other way round (rows reordered)"),
        (family.partial_rotary, "partial rotation"),
        (family.skips_rope, "layers without rotation"),
        (family.rope_in_windows, "rotation in windows alone"),
        (family.rope_by_layer_type, "rotation by kind of layer"),
        (family.learned_positions, "learned positions"),
        ("embedding_projection" in family.names, "narrower embeddings"),
        (family.embedding_norm and not family.encoder, "a norm of the embedding"),
        ("relative_bias" in family.names, "numbers for distances"),
        (family.distances and "relative_bias" not in family.names, "numbers for distances in each layer"),
        (family.disentangled, "disentangled attention"),
        (family.alibi, "linear biases of attention" + _by_key(family.alibi)),
        (family.mixture is not None, "a mixture of experts"),
        (family.sinks, "attention sinks"),
        (family.latent, "latent attention"),
        (family.sliding_window == "chunked", "chunks"),
        (family.sliding_window not in ("never", "chunked"), "windows"),
        (family.scaled_embedding, "scaled embedding"),
        (not family.gated_mlp, "MLP without a gate"),
        (isinstance(family.gated_mlp, str), "a gate of the MLP" + _by_key(family.gated_mlp)),
        (family.defaults.get("hidden_act") == "xielu", "xIELU"),
        (family.head_bias, "a bias of the projection" + _by_key(family.head_bias)),
        (family.own_code, "code of its own, which is not run"),
    )
    return (text for there, text in told if there)


def _by_key(value: bool | str) -> str:
    return f" (`{value}`)" if isinstance(value, str) else ""


def _where(family: Family) -> str:
    if family.qk_norm_width:
        return " over all heads"
    return (" without weights" if family.qk_norm_bare else "") + (" after the rotation" if family.qk_norm_last else "")


if __name__ == "__main__":
    print(document(), end="")
