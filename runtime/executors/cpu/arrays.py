"""Memory of fixed size and address that C and Python share."""

from __future__ import annotations

from array import array


class Cells:
    """`count` zeroed numbers of the type that `code` names (as in the array module; native sizes).

    Assign slices of `view` from arrays of the same type: those are copied as memory. The view keeps the array from
    being resized, and so the address valid.
    """

    __slots__ = ("address", "view")

    def __init__(self, code: str, count: int) -> None:
        cells = array(code)
        cells.frombytes(bytes(cells.itemsize * count))
        self.address: int = cells.buffer_info()[0]
        self.view = memoryview(cells)
