"""One Triton request in flight: its rows, their sequences, and the responses that are due."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from inflight.errors import InflightError
from inflight.runtime.request.deltas import TokenDelta
from inflight.triton_backend.tensorrt_llm.beam_output import BeamOutput
from inflight.triton_backend.tensorrt_llm.generation_request import GenerationRequest
from inflight.triton_backend.tensorrt_llm.sequence_output import SequenceOutput
from inflight.triton_backend.wire.joined_rows import ResponseChannel
from inflight.triton_backend.wire.request_tensors import Array
from inflight.triton_backend.wire.response_tensors import response_tensors


class ResponseStream:
    """Turns the deltas of all sequences of a request into responses, the last of which carries the final flag.

    Used from one thread. `rows` are in batch order; `client_id` is the id under which a client may stop the request;
    `on_finished` is told the prompt and output tokens of each sequence.
    """

    def __init__(
        self,
        channel: ResponseChannel,
        rows: list[GenerationRequest],
        client_id: str,
        on_finished: Callable[[int, int], None],
    ) -> None:
        self.client_id = client_id
        self.request_ids = [row.request.request_id for row in rows]
        self.rows = rows
        self._channel = channel
        self._on_finished = on_finished
        self._outputs = {
            (row.request.request_id, index): SequenceOutput(row, index)
            for row in rows
            if row.request.beams is None
            for index in range(row.request.num_sequences)
        }
        self._beams = {row.request.request_id: BeamOutput(row) for row in rows if row.request.beams is not None}
        self.closed = False
        self.abandoned = False

    def add(self, delta: TokenDelta) -> bool:
        """Take in news; true when a stop word ended the sequence, so that the engine should stop computing it."""
        if (beams := self._beams.get(delta.request_id)) is not None:
            beams.add(delta)
            return False
        output = self._outputs.get((delta.request_id, delta.index))
        if output is None:
            return False
        output.add(delta)
        return output.wants_cancel

    def send_due(self) -> None:
        """Send a response per sequence that has news. Deltas taken in since the last call share one."""
        if self.closed:
            return
        failures = [output.failure for output in self._outputs.values()]
        failures += [beams.failure for beams in self._beams.values()]
        if failure := next((each for each in failures if each is not None), None):
            self.fail(failure)
            return
        for batch_index, output in list(self._due()):
            chunk = output.take()
            if chunk.delta.finish_reason is not None:
                del self._outputs[output.generation.request.request_id, output.index]
                self._on_finished(len(output.generation.request.prompt_token_ids), output.num_tokens)
            self._send(response_tensors(chunk, output.generation, batch_index))
        for batch_index, beams in list(self._found()):
            del self._beams[beams.generation.request.request_id]
            self._on_finished(len(beams.generation.request.prompt_token_ids), beams.num_tokens)
            self._send(beams.response(batch_index))

    def fail(self, error: InflightError) -> None:
        """End the stream with an error."""
        if not self.closed:
            self.closed = True
            self._channel.send_error(error)

    def found_abandoned(self) -> bool:
        """True once, when the client is found to have gone."""
        if self.closed or self.abandoned:
            return False
        self.abandoned = self._channel.is_cancelled()
        return self.abandoned

    def _send(self, tensors: dict[str, Array]) -> None:
        self.closed = not self._outputs and not self._beams
        self._channel.send(tensors, final=self.closed)

    def _found(self) -> Iterator[tuple[int | None, BeamOutput]]:
        for row_index, row in enumerate(self.rows):
            beams = self._beams.get(row.request.request_id)
            if beams is not None and beams.finished:
                yield row_index if len(self.rows) > 1 else None, beams

    def _due(self) -> Iterator[tuple[int | None, SequenceOutput]]:
        for row_index, row in enumerate(self.rows):
            batch_index = row_index if len(self.rows) > 1 else None
            for index in range(row.request.num_sequences):
                output = self._outputs.get((row.request.request_id, index))
                if output is not None and (output.finished or (row.wanted.streaming and output.has_news)):
                    yield batch_index, output
