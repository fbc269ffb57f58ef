"""Looks at a write-ahead log before DuckDB replays it. Calls duckdb, for a log to compare with.

DuckDB takes a log that it cannot read on from some place for one whose end was torn off: it keeps what stands before
that place, and forgets the rest for good. That is right where a process died in the middle of a commit. But one flipped
bit in the log's header, or in the length of an entry, looks the same, and every commit behind it would be lost without
a word. Promise: where a whole commit stands behind the place from which the log cannot be read, it is called damaged,
and nothing of it is touched. What an entry says has a checksum, which DuckDB minds by itself.

A log is a header, then entries: length and checksum (8 bytes each), then so many bytes. A commit ends with the entry
`_COMMIT`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Callable

import duckdb

__all__ = ["has_commits", "is_damaged"]

_FRAME = struct.Struct("<QQ")  # length, checksum
_COMMIT = bytes.fromhex("e7fe7d722fed3d5e 640064ffff")  # the checksum of its entry and what it says; its length is 5
_NUMBER = rb"[\x80-\xff]*[\x00-\x7f]"
# What it is, the version; the file that it belongs to and the checkpoint after which it was begun, which are left out
# where an older DuckDB made the file.
_HEADER = re.compile(
    rb"\x64\x00\x62\x65\x00\x02(?:\x66\x00\x10(?:%b){16}\x67\x00%b)?\xff\xff" % (_NUMBER, _NUMBER), re.DOTALL
)
_LONGEST_HEADER = 64
Log = bytes | mmap.mmap


def is_damaged(path: str) -> bool:
    """Whether commits that are whole would be lost by opening the ledger `path`, which nobody has open.

    A DuckDB that writes its logs in another way is left to itself.
    """
    log = f"{path}.wal"
    # Looked at twice: the first time, a program that has the file open may have been about to begin its log anew.
    return _loses(log) and not _loses_of_a_good_one() and _loses(log)


def has_commits(path: str) -> bool:
    """Whether the log of the ledger `path` has any."""
    return _asked(f"{path}.wal", lambda log: log.rfind(_COMMIT) >= 0)


def _asked(path: str, question: Callable[[Log], bool]) -> bool:
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as log:
            return question(log)
    except (OSError, ValueError):  # there is none, or it is empty
        return False


def _loses(path: str) -> bool:
    return _asked(path, _loses_commits)


def _loses_commits(log: Log) -> bool:
    last = log.rfind(_COMMIT)
    if last < 0:
        return False
    end = last + len(_COMMIT)
    first = next((start for start in range(_LONGEST_HEADER) if _leads_to(log, start, end)), None)
    return first is None or not _HEADER.fullmatch(log[:first])


def _leads_to(log: Log, place: int, end: int) -> bool:
    """Whether entry after entry from `place` on leads to `end`."""
    while place + _FRAME.size < end:
        place += _FRAME.size + _FRAME.unpack_from(log, place)[0]
    return place == end


def _loses_of_a_good_one() -> bool:
    """What is found of a log that this DuckDB has just written: if that seems damaged, no log can be judged here."""
    with contextlib.suppress(duckdb.Error, OSError):
        folder = tempfile.mkdtemp(prefix="ipyconvexai-log-")
        try:
            path = os.path.join(folder, "good.duckdb")
            with duckdb.connect(path) as connection:
                connection.execute("CREATE TABLE a (b VARCHAR)")
                connection.execute("INSERT INTO a VALUES ('c')")
                return not has_commits(path) or _loses(f"{path}.wal")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return True
