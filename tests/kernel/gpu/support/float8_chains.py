"""Sums of float8 products in PTX: how long tensor cores sum on their own, and what becomes of that."""

from __future__ import annotations

import re
from collections.abc import Iterator

FLOAT8_PRODUCT = re.compile(r"\b(?:wgmma\.mma_async|mma\.sync)\.[\w.]*e4m3\.e4m3[\w.]*\s*\{([^}]*)\}([^;]*);")
# Two at a time from sm_100 on, in a register of 64 bits.
_ADDED = re.compile(r"\badd\.rn\.f32(?:x2)?\s+%\w+, (%\w+), (%\w+);")
_PAIR = re.compile(r"\bmov\.b64\s+(%\w+), \{\s*(%\w+), (%\w+)\s*\};")
_ZEROED = re.compile(r"\bmov\.b32\s+(%\w+), (?:0|0f00000000|%\w+);")
_LABEL = re.compile(r"^\$\w+:", re.MULTILINE)


def float8_chains(ptx: str) -> list[tuple[int, bool, bool]]:
    """Of each run of products with the same registers for its sums: how many there are, whether they begin with zero,
    and whether every sum is then added to something in float32."""
    return list(_chains(ptx))


def _chains(ptx: str) -> Iterator[tuple[int, bool, bool]]:
    found: dict[str, list[re.Match[str]]] = {}
    for product in FLOAT8_PRODUCT.finditer(ptx):
        found.setdefault(product[1], []).append(product)
    added = {name for sums in _ADDED.finditer(ptx) for name in sums.groups()}
    added |= {name for pair, *names in _PAIR.findall(ptx) if pair in added for name in names}
    for registers, products in found.items():
        names = re.findall(r"%\w+", registers)
        yield len(products), _begins_with_zero(ptx, products, names), added.issuperset(names)


def _begins_with_zero(ptx: str, products: list[re.Match[str]], names: list[str]) -> bool:
    first, *others = products
    if first[0].startswith("wgmma"):
        # Behind the two descriptors: whether there are sums to add to.
        scales = [product[2].split(",")[3].strip() for product in products]
        return scales[0] == "0" and "0" not in scales[1:]
    # A block of code that is run again for each step begins with a label.
    begin = max((label.end() for label in _LABEL.finditer(ptx, 0, first.start())), default=0)
    return set(_ZEROED.findall(ptx[begin : first.start()])).issuperset(names) and all(
        product[2].rstrip().endswith(f"{{{product[1]}}}") for product in others
    )
