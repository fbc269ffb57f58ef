"""Files and batches of the endpoint: requests that are uploaded as lines and answered later, also as lines.

Runs on the endpoint's thread; what tests read or change is guarded by one lock. Knows `received`, `shapes` and `wire`;
how a line is answered it is told.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from ipyconvexai.testing import shapes
from ipyconvexai.testing.received import Headers, Received
from ipyconvexai.testing.wire import Plan, head

ENDED = ("completed", "failed", "expired", "cancelled")
_INVALID = "invalid_request_error"
_MOST_LINES = 50_000

Answer = Callable[[Received], Plan]


@dataclass
class File:
    """A file that was uploaded, or that a batch has written."""

    id: str
    content: bytes
    name: str = "file.jsonl"
    purpose: str = "batch"
    created_at: int = field(default_factory=lambda: int(time.time()))

    def shape(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created_at,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


@dataclass
class Batch:
    """A batch as the provider has it.

    Attributes:
        status: validating, in_progress, finalizing, completed, failed, expired, cancelling or cancelled.
        polls: how often it was asked for.
    """

    id: str
    file: File
    url: str
    metadata: dict[str, str]
    status: str = "validating"
    polls: int = 0
    created_at: int = field(default_factory=lambda: int(time.time()))
    output: File | None = None
    errors: File | None = None
    problems: list[dict[str, Any]] = field(default_factory=list)
    completed: int = 0
    failed: int = 0
    total: int = 0

    def shape(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.url,
            "errors": {"object": "list", "data": self.problems} if self.problems else None,
            "input_file_id": self.file.id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self.output.id if self.output else None,
            "error_file_id": self.errors.id if self.errors else None,
            "created_at": self.created_at,
            "metadata": self.metadata,
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
        }


class Batches:
    """``endpoint.batches``: what there is, and how it gets on.

    A batch goes on by itself with each question for it (`polls` of them until its end), or with `polls` None only when
    a test says so: `advance`, `finish`, `expire`, `fail`. Its lines are answered by the endpoint's script, at its end.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._files: dict[str, File] = {}
        self._batches: dict[str, Batch] = {}
        self._answer: Answer
        self.polls: int | None = 2
        self.uploads = 0

    def answer_with(self, answer: Answer) -> None:
        """How a line is answered."""
        self._answer = answer

    # what tests read

    @property
    def all(self) -> list[Batch]:
        """Every batch, in the order they were made."""
        with self._lock:
            return list(self._batches.values())

    @property
    def files(self) -> list[File]:
        """Every file."""
        with self._lock:
            return list(self._files.values())

    # what tests change

    def advance(self, batch: Batch) -> None:
        """One state further: validating, in_progress, finalizing, completed; or from cancelling to cancelled."""
        with self._lock:
            if batch.status == "cancelling":
                batch.status = "cancelled"
            elif batch.status == "validating":
                self._validate(batch)
            elif batch.status == "in_progress":
                batch.status = "finalizing"
            elif batch.status == "finalizing":
                self._end(batch, "completed")

    def finish(self, batch: Batch, answered: int | None = None) -> None:
        """To its end, with answers to the first `answered` lines and none at all to the others."""
        with self._lock:
            self._validate(batch)
            if batch.status not in ENDED:
                self._end(batch, "completed", answered, silent=True)

    def expire(self, batch: Batch, answered: int = 0) -> None:
        """Its day is over when `answered` lines are done."""
        with self._lock:
            self._validate(batch)
            self._end(batch, "expired", answered)

    def fail(self, batch: Batch, message: str, code: str = "invalid_json_line", line: int | None = 1) -> None:
        """It is refused as a whole."""
        with self._lock:
            batch.problems = [{"code": code, "message": message, "line": line, "param": None}]
            batch.status = "failed"

    def cancel(self, batch: Batch, answered: int = 0) -> None:
        """It is asked to end when `answered` lines are done."""
        with self._lock:
            if answered:
                self._end(batch, "cancelling", answered, silent=True)
            batch.status = "cancelling"

    # how it gets on

    def _validate(self, batch: Batch) -> None:
        lines = batch.file.content.splitlines()
        batch.total = len(lines)
        seen: set[str] = set()
        for number, line in enumerate(lines, 1):
            problem = _problem(line, batch.url, seen)
            if problem:
                batch.problems.append({"code": "invalid_json_line", "message": problem, "line": number, "param": None})
        if len(lines) > _MOST_LINES:
            batch.problems.append({"code": "too_many_requests", "message": "The file has too many lines."})
        batch.status = "failed" if batch.problems else "in_progress"

    def _end(self, batch: Batch, status: str, answered: int | None = None, *, silent: bool = False) -> None:
        """The first `answered` lines have their answers; the others say why not, unless `silent`."""
        good: list[dict[str, Any]] = []
        bad: list[dict[str, Any]] = []
        lines = batch.file.content.splitlines()
        for number, line in enumerate(lines):
            if answered is None or number < answered:
                entry = self._run(batch, json.loads(line), number)
                (good if entry["response"] and entry["response"]["status_code"] < 400 else bad).append(entry)
            elif not silent:
                bad.append(_unanswered(json.loads(line), number))
        good.reverse()  # the order of answers is not that of the requests
        batch.completed, batch.failed = len(good), len(bad)
        batch.output = self._written(good)
        batch.errors = self._written(bad)
        batch.status = status

    def _run(self, batch: Batch, line: dict[str, Any], number: int) -> dict[str, Any]:
        raw = json.dumps(line["body"]).encode()
        plan = self._answer(Received(number + 1, time.time(), "POST", batch.url, "", Headers({}), raw))
        whole = b"".join(data for _, data in plan.steps)
        start, _, body = whole.partition(b"\r\n\r\n")
        entry: dict[str, Any] = {"id": f"batch_req_{number}", "custom_id": line["custom_id"], "error": None}
        try:
            parsed = json.loads(body)
        except ValueError:  # dropped, cut or stalled
            failure = {"code": "server_error", "message": "The server had an error while processing your request."}
            return {**entry, "response": None, "error": failure}
        status = int(start.split(b" ")[1])
        return {**entry, "response": {"status_code": status, "request_id": f"req_b{number}", "body": parsed}}

    def _written(self, entries: list[dict[str, Any]]) -> File | None:
        if not entries:
            return None
        content = b"".join(json.dumps(entry, ensure_ascii=False).encode() + b"\n" for entry in entries)
        return self._keep(content, "output.jsonl", "batch_output")

    def _keep(self, content: bytes, name: str, purpose: str) -> File:
        file = File(f"file-{next(self._numbers)}", content, name, purpose)
        self._files[file.id] = file
        return file

    # what clients ask

    def plan(self, call: Received) -> Plan:
        """The answer to a request for files or batches."""
        status, body = self._reply(call)
        content = body if isinstance(body, bytes) else shapes.encode(body)
        media = (
            "application/octet-stream" if isinstance(body, bytes) and call.path.endswith("/content") else shapes.JSON
        )
        return Plan(
            [(0.0, head(status, {"content-type": media, "x-request-id": f"req_{call.number}"}, len(content)) + content)]
        )

    def _reply(self, call: Received) -> tuple[int, Any]:
        # /v1/files/file-1/content
        kind, *rest = call.path.partition(f"/{call.kind}")[1:]
        key, _, verb = rest[0].strip("/").partition("/")
        with self._lock:
            if kind == "/files":
                return self._files_reply(call, key, verb)
            return self._batches_reply(call, key, verb)

    def _files_reply(self, call: Received, key: str, verb: str) -> tuple[int, Any]:
        if not key:
            if call.method == "GET":
                return 200, {"object": "list", "data": [file.shape() for file in self._files.values()]}
            return self._upload(call)
        file = self._files.get(key)
        if file is None:
            return 404, shapes.error(f"No such File object: {key}", _INVALID)
        if call.method == "DELETE":
            del self._files[key]
            return 200, {"id": key, "object": "file", "deleted": True}
        return 200, file.content if verb == "content" else file.shape()

    def _upload(self, call: Received) -> tuple[int, Any]:
        parts = _parts(call)
        if "file" not in parts or "purpose" not in parts:
            return 400, shapes.error("'file' and 'purpose' are required.", _INVALID)
        self.uploads += 1
        name, content = parts["file"]
        return 200, self._keep(content, name, parts["purpose"][1].decode()).shape()

    def _batches_reply(self, call: Received, key: str, verb: str) -> tuple[int, Any]:
        if not key:
            return (200, self._listing(call)) if call.method == "GET" else self._create(call)
        batch = self._batches.get(key)
        if batch is None:
            return 404, shapes.error(f"No batch found with id '{key}'.", _INVALID)
        if verb == "cancel":
            if batch.status in ENDED:
                return 409, shapes.error(f"Cannot cancel a batch with status '{batch.status}'.", _INVALID)
            self.cancel(batch)
            return 200, batch.shape()
        batch.polls += 1
        if self.polls is not None and batch.status not in ENDED:
            self._get_on(batch)
        return 200, batch.shape()

    def _get_on(self, batch: Batch) -> None:
        if batch.status in ("validating", "cancelling"):
            self.advance(batch)
        if batch.status == "in_progress" and batch.polls >= (self.polls or 0):
            self._end(batch, "completed")

    def _create(self, call: Received) -> tuple[int, Any]:
        asked = call.body if isinstance(call.body, dict) else {}
        file = self._files.get(asked.get("input_file_id", ""))
        if file is None or file.purpose != "batch":
            return 400, shapes.error("Invalid value for 'input_file_id'.", _INVALID, None, "input_file_id")
        if asked.get("completion_window") != "24h":
            return 400, shapes.error("Invalid value for 'completion_window'.", _INVALID, None, "completion_window")
        batch = Batch(f"batch_{next(self._numbers)}", file, asked.get("endpoint", ""), asked.get("metadata") or {})
        self._batches[batch.id] = batch
        return 200, batch.shape()

    def _listing(self, call: Received) -> dict[str, Any]:
        asked = {name: values[0] for name, values in parse_qs(call.query).items()}
        newest = list(reversed(self._batches.values()))
        if after := asked.get("after"):
            newest = newest[[batch.id for batch in newest].index(after) + 1 :]
        most = int(asked.get("limit", "20"))
        page = [batch.shape() for batch in newest[:most]]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
        return {"object": "list", "data": page, "has_more": len(newest) > most, **ends}


def _problem(line: bytes, url: str, seen: set[str]) -> str | None:
    """What is wrong with a line of a file of requests."""
    try:
        data = json.loads(line)
    except ValueError:
        return "This line is not parseable as valid JSON."
    if not isinstance(data, dict) or not isinstance(data.get("body"), dict) or data.get("method") != "POST":
        return "A line needs custom_id, method, url and body."
    if data.get("url") != url:
        return f"The URL provided for this request does not match the batch endpoint {url}."
    custom_id = str(data.get("custom_id"))
    if custom_id in seen:
        return f"The custom_id for this request is a duplicate of another request: {custom_id}."
    seen.add(custom_id)
    return None


def _unanswered(line: dict[str, Any], number: int) -> dict[str, Any]:
    said = "This request could not be executed before the completion window expired."
    failure = {"code": "batch_expired", "message": said}
    return {"id": f"batch_req_{number}", "custom_id": line["custom_id"], "response": None, "error": failure}


_NAME = re.compile(rb'name="([^"]*)"')
_FILENAME = re.compile(rb'filename="([^"]*)"')


def _parts(call: Received) -> dict[str, tuple[str, bytes]]:
    """Field name -> (file name, content) of a multipart body (RFC 7578)."""
    boundary = re.search(r'boundary="?([^";]+)', call.headers.get("content-type", ""))
    if boundary is None:
        return {}
    found = {}
    for part in (b"\r\n" + call.raw).split(b"\r\n--" + boundary[1].encode())[1:-1]:
        start, _, content = part.partition(b"\r\n\r\n")
        if name := _NAME.search(start):
            file = _FILENAME.search(start)
            found[name[1].decode()] = (file[1].decode() if file else "", content)
    return found
