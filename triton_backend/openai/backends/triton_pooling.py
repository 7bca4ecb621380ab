"""The model `pooling` of a Triton server, over gRPC, with token ids."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from inflight.errors import EngineError
from inflight.runtime.pooling.texts import TokenizedText
from inflight.runtime.pooling.vectors import Floats
from inflight.triton_backend.openai.backends.embedded_pooling import GeneratesNothing
from inflight.triton_backend.openai.backends.triton import infer_input, open_client
from inflight.triton_backend.pooling.tensors import POOLED, id_tensors
from inflight.triton_backend.wire.error_kinds import ASKS_FOR_CODES, read_with_code

# An engine that is healthy takes a request between two of its steps.
_PROBE_S = 5.0


class TritonPooling(GeneratesNothing):
    """A PoolingBackend over the model `pooling` at `url` (host:port). A call that is cancelled tells Triton that the
    client has gone."""

    def __init__(self, url: str, model: str = "pooling") -> None:
        self._url = url
        self._model = model
        self._client: triton.InferenceServerClient | None = None

    async def pool(self, texts: Sequence[TokenizedText]) -> list[Floats]:
        if self._client is None:  # It belongs to the event loop that is running now.
            self._client = open_client(self._url)
        try:
            result = await self._client.infer(
                self._model,
                [infer_input(name, array) for name, array in id_tensors(texts).items()],
                outputs=[triton.InferRequestedOutput(POOLED)],
                parameters={ASKS_FOR_CODES: True},
            )
        except InferenceServerException as error:
            if error.status() is None or ("UNAVAILABLE" in str(error.status()) and not error.message().startswith("[")):
                raise EngineError(f"Triton cannot be reached: {error.message()}") from error
            raise read_with_code(error.message()) from error
        except grpc.RpcError as error:
            raise EngineError(f"Triton cannot be reached: {error}") from error
        rows = np.asarray(result.as_numpy(POOLED), np.float32)
        if not any(text.each_token for text in texts):
            return list(rows)
        return np.split(rows, np.cumsum([len(text.token_ids) for text in texts])[:-1])

    async def problem(self) -> str | None:
        """Asks the model itself, with a request of no texts: Triton 2.51 calls a model ready whatever became of it."""
        try:
            await asyncio.wait_for(self.pool([]), _PROBE_S)
        except EngineError as error:
            return error.message
        except asyncio.TimeoutError:
            return f"The engine has not answered for {_PROBE_S:.0f} seconds."
        return None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
