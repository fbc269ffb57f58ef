"""Row ids: UUIDs which sort by the time they were made. Floor 0: imports nothing of the package.

Rows get their id before they are written, so that a repeated write can be recognised by it. The ledger's own rows have
UUIDv7; a document's id is a UUIDv8 of the same layout (RFC 9562, 5.8) that also carries the number of its table.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable

__all__ = ["MOST_TABLES", "new_id", "table_number", "uuid_of"]

MOST_TABLES = 0x3FFF  # numbers of tables that an id can carry: 14 bits

_lock = threading.Lock()
_last = 0


def new_id(
    now_ns: Callable[[], int] = time.time_ns, random: Callable[[int], bytes] = os.urandom, *, table: int | None = None
) -> str:
    """A UUID as text, greater than every one made before in this process; `table`: the number of a document's table.

    48 bits of milliseconds, 12 bits of the fraction of that millisecond (method 3 of RFC 9562, 6.2), 62 random bits, of
    which the first 14 make place for `table`: it is the fourth group of the text. When the clock stands still or goes
    back, the time part counts on by one.
    """
    global _last
    milliseconds, rest = divmod(now_ns(), 1_000_000)
    stamp = (milliseconds << 12) | (rest * 4096 // 1_000_000)
    with _lock:
        _last = stamp = max(stamp, _last + 1)
    tail = int.from_bytes(random(8), "big") & 0x3FFF_FFFF_FFFF_FFFF
    version = 0x7
    if table is not None:
        version, tail = 0x8, (table << 48) | (tail & 0xFFFF_FFFF_FFFF)
    value = ((stamp >> 12) << 80) | (version << 76) | ((stamp & 0xFFF) << 64) | (0b10 << 62) | tail
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def uuid_of(digest: bytes, version: int) -> str:
    """A UUID as text, made of a hash (RFC 9562): `version` is 5 for SHA-1, 8 for an application's own. 0.5 us."""
    text = digest[:16].hex()
    variant = "89ab"[int(text[16], 16) & 3]
    return f"{text[:8]}-{text[8:12]}-{version}{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"


def table_number(document_id: str) -> int | None:
    """The number of the table that a document's id carries; None for an id without one.

    Raises:
        ValueError: it is no UUID.
    """
    value = uuid.UUID(document_id)
    return (value.int >> 48) & MOST_TABLES if (value.int >> 76) & 0xF == 8 else None
