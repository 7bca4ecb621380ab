"""The file of answers: a line is written when its answer is there, and what is there is not asked for again."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

from inflight.errors import InflightError
from inflight.triton_backend.openai.answers.json_answer import json_bytes

# What a later try may answer: an overload, and failures of the server.
_AGAIN = (429, 500)


class Results:
    """Opened for appending. `answered`: the custom_ids whose answers stay; what failed before is dropped, and so is
    half a line that an interrupted run left. Answers come in the order in which they were ready."""

    def __init__(self, path: Path, custom_ids: Collection[str]) -> None:
        """Raises InflightError for a file with answers to other requests, or with anything else."""
        self.answered: set[str] = set()
        self.errors = 0
        self._path = path
        self._file = self._open(path, custom_ids)

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add_answer(self, custom_id: str, status: int, request_id: str, body: Any) -> None:
        self.errors += status >= 400
        response = {"status_code": status, "request_id": request_id, "body": body}
        self._write(custom_id, response, None)

    def add_error(self, custom_id: str | None, code: str, message: str) -> None:
        """For a line that was not sent."""
        self.errors += 1
        self._write(custom_id, None, {"code": code, "message": message})

    def _write(self, custom_id: str | None, response: dict[str, Any] | None, error: dict[str, str] | None) -> None:
        line = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": custom_id, "response": response, "error": error}
        self._file.write(json_bytes(line) + b"\n")
        self._file.flush()

    def _open(self, path: Path, custom_ids: Collection[str]) -> BinaryIO:
        try:
            before = path.read_bytes() if path.exists() else b""
            kept = self._kept(before, custom_ids)
            if kept != before:
                # Whole or not at all: an interrupt loses no answer.
                scratch = path.with_name(f".{path.name}.{os.getpid()}")
                scratch.write_bytes(kept)
                scratch.replace(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("ab")
        except OSError as error:
            raise InflightError(f"{path} cannot be written: {error.strerror}.") from error

    def _kept(self, content: bytes, custom_ids: Collection[str]) -> bytes:
        # What is behind the last end of a line is half of one.
        *lines, _ = content.split(b"\n")
        kept = []
        for number, line in enumerate(lines, 1):
            answer = self._read(number, line)
            custom_id = answer["custom_id"]
            if custom_id is not None and custom_id not in custom_ids:
                raise InflightError(
                    f"{self._path} has an answer to {custom_id[:100]!r}, which the input does not ask.",
                    "Choose another output, or delete that file.",
                )
            response = answer.get("response")
            if custom_id is not None and response and not _may_fare_better(response["status_code"]):
                self.answered.add(custom_id)
                kept.append(line + b"\n")
        return b"".join(kept)

    def _read(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(line)
            if {"custom_id", "response", "error"} <= set(answer):
                return dict(answer)
        except (ValueError, TypeError, RecursionError):
            pass
        raise InflightError(
            f"{self._path} is there and is no file of answers: line {number} is none.", "Choose another output."
        )


def _may_fare_better(status: Any) -> bool:
    overload, failure = _AGAIN
    return not isinstance(status, int) or status == overload or status >= failure
