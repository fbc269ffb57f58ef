"""Row ids: UUIDv7 (RFC 9562), which sort by the time they were made. Floor 0: imports nothing of the package.

Rows get their id before they are written, so that a repeated write can be recognised by it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

__all__ = ["new_id"]

_lock = threading.Lock()
_last = 0


def new_id(now_ns: Callable[[], int] = time.time_ns, random: Callable[[int], bytes] = os.urandom) -> str:
    """A UUIDv7 as text, greater than every one made before in this process.

    48 bits of milliseconds, 12 bits of the fraction of that millisecond (method 3 of RFC 9562, 6.2), 62 random bits.
    When the clock stands still or goes back, the time part counts on by one.
    """
    global _last
    milliseconds, rest = divmod(now_ns(), 1_000_000)
    stamp = (milliseconds << 12) | (rest * 4096 // 1_000_000)
    with _lock:
        _last = stamp = max(stamp, _last + 1)
    tail = int.from_bytes(random(8), "big") & 0x3FFF_FFFF_FFFF_FFFF
    value = ((stamp >> 12) << 80) | (0x7 << 76) | ((stamp & 0xFFF) << 64) | (0b10 << 62) | tail
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
