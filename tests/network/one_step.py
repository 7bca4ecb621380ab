"""One step of several sequences through a fused graph, for the tests of quantized networks."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inflight.build.network import build_network
from inflight.build.passes.pipeline import lower_for_cpu
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.engine_format.manifest import Limits
from tests.network.paging import paged_caches
from tests.network.support import Floats, Ids
from tests.oracles.fused_graph import Interpreter

SEQUENCES, LENGTH = 9, 2
LIMITS = Limits(max_batch_size=SEQUENCES, max_seq_len=16, max_num_tokens=SEQUENCES * LENGTH, max_logit_rows=SEQUENCES)


def lowered(checkpoint: Checkpoint) -> ir.Model:
    network = build_network(checkpoint, LIMITS.max_seq_len)
    return lower_for_cpu(network, LIMITS, tokens_per_block=16, kv_dtype="float32")


def one_step(model: ir.Model, sequences: Ids) -> Floats:
    """Logits [sequences, vocab] after the last token of each sequence [sequences, length], all in one step."""
    count, length = sequences.shape
    rows = np.arange(count * length)
    inputs = {
        "token_ids": sequences.ravel().astype(np.int32),
        "positions": (rows % length).astype(np.int32),
        "sequence_of_row": (rows // length).astype(np.int32),
        "block_tables": np.arange(count, dtype=np.int32)[:, None],
        "logit_rows": (rows[length - 1 :: length]).astype(np.int32),
    }
    return Interpreter(model).run({**inputs, **paged_caches(model.graph, count)})
