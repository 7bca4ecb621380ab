"""What the products of the cuda target refuse."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from inflight.build.targets.cuda.operators.quantized import QuantizedMatrix
from inflight.errors import BuildError

pytestmark = pytest.mark.unit


def test_codes_meet_no_rows_of_integers() -> None:
    weight, scale, codebook = (ir.Value(name=name) for name in ("experts", "scale", "codebook"))
    coded = QuantizedMatrix(weight, scale, None, None, codebook, None)
    levels = QuantizedMatrix(weight, scale, None, None, None, None)
    for matrix, rounded in ((coded, "plain"), (levels, "plain"), (levels, "int8")):
        matrix.check_rows(rounded)
    with pytest.raises(BuildError, match="experts, which holds codes"):
        coded.check_rows("int8")
