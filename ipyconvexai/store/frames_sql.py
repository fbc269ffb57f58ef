"""SQL over frames, in a process of its own that has nothing else: no ledger, no file, no network, no environment.

Run as a program it reads one question from its standard input, answers on its standard output, and ends. A process,
because a query that hangs in C code, or asks for more memory than there is, can be ended only with its process, and
that must not be the kernel. Promises: DuckDB's access to files and network is off and cannot be turned on again; one
SELECT is run, and there is nothing that it could write to; the answer has a bounded size; who asks is told DuckDB's own
error.

The question: a line of JSON {"sql", "rows", "seconds", "memory", "frames": [[name, bytes], ...]}, then the frames as
Arrow IPC streams. The answer: JSON {"columns", "rows", "total"} with cells as text (null: None), or {"error"}. `total`
is how many rows there are, -1 for more than were counted.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

__all__ = ["ask_frames"]

COUNTED = 1_000_000  # rows
GRACE = 5.0  # seconds
LONGEST_CELL = 2000  # characters
SETTINGS = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",  # or a query could name Python's variables
    "max_temp_directory_size": "0KB",
    "threads": "2",
}
# What a process needs to find its libraries, and nothing else: no key is in its environment.
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "VIRTUAL_ENV")


def ask_frames(
    sql: str, frames: Mapping[str, bytes], *, rows: int, seconds: float, memory: int = 1 << 30
) -> dict[str, Any]:
    """The answer to `sql` over `frames` (Arrow IPC streams, by name). Blocking; ends with its process.

    Args:
        rows: that are wanted at most.
        seconds: after which it is given up.
        memory: bytes, beside the frames.
    """
    names = [[name, len(data)] for name, data in frames.items()]
    asked = {"sql": sql, "rows": rows, "seconds": seconds, "memory": memory, "frames": names}
    question = json.dumps(asked).encode() + b"\n"
    # A session of its own: Jupyter and terminals signal the whole group.
    own_session: dict[str, Any] = {"creationflags": 0x208} if sys.platform == "win32" else {"start_new_session": True}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        **own_session,
    )
    try:
        ends = time.monotonic() + seconds
        # In a thread: communicate() forgets what it has not written when it is called again.
        writes, process.stdin = process.stdin, None
        threading.Thread(target=_write, args=(writes, [question, *frames.values()]), daemon=True).start()
        while True:
            try:
                answer, _ = process.communicate(timeout=0.25)  # who waits can be stopped in between
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() > ends:
                    return {"error": f"the query took longer than {seconds:g} s and was given up"}
        return _read(answer)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _write(pipe: Any, parts: list[bytes]) -> None:
    with contextlib.suppress(OSError), pipe:  # it has ended
        for part in parts:
            pipe.write(part)


def _read(answer: bytes) -> dict[str, Any]:
    try:
        read = json.loads(answer)
    except ValueError:
        return {"error": "the query needs more memory than it may have, or DuckDB ended in the middle of it"}
    return read if isinstance(read, dict) else {"error": "the query gave nothing"}


# ---------------------------------------------------------------------------------------------- in that process
def _serve(source: BinaryIO) -> dict[str, Any]:
    import duckdb
    import pyarrow as pa

    asked = json.loads(source.readline())
    _end_after(asked["seconds"] + GRACE)
    total = sum(size for _, size in asked["frames"])
    _bound_memory(2 * asked["memory"] + 3 * total)
    memory = f"{asked['memory'] >> 20}MB"
    connection = duckdb.connect(":memory:", config={**SETTINGS, "memory_limit": memory})
    for name, size in asked["frames"]:
        connection.register(name, pa.ipc.open_stream(pa.py_buffer(source.read(size))).read_all())
    connection.execute("SET lock_configuration = true")
    try:
        return _answer(connection, asked["sql"], asked["rows"])
    except (duckdb.Error, MemoryError, ValueError, RecursionError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _answer(connection: Any, sql: str, most: int) -> dict[str, Any]:
    import duckdb

    statements = connection.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        return {"error": "one SELECT at a time is run here (DESCRIBE and SUMMARIZE are, too), and nothing else"}
    result = connection.execute(statements[0])
    columns = [str(column[0]) for column in result.description or ()]
    rows = [[_cell(value) for value in row] for row in result.fetchmany(most)]
    total = len(rows)
    while total <= COUNTED and (more := len(result.fetchmany(10_000))):
        total += more
    return {"columns": columns, "rows": rows, "total": total if total <= COUNTED else -1}


def _cell(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def _end_after(seconds: float) -> None:
    """Also where who asked was killed, and cannot end it."""
    if hasattr(signal, "alarm"):
        signal.alarm(math.ceil(seconds))  # which ends the process


def _bound_memory(size: int) -> None:
    """A string function can ask for more than DuckDB's own limit sees. Where the system cannot bound it, it is not."""
    try:
        import resource

        # Before the process began it has taken address space that it does not use.
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    except (ImportError, ValueError, OSError):
        pass


if __name__ == "__main__":
    found = _serve(sys.stdin.buffer)
    sys.stdout.buffer.write(json.dumps(found, ensure_ascii=True).encode())
    sys.stdout.buffer.flush()
    os._exit(0)  # at once: nothing of it is to be kept
