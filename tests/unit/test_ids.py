"""Row ids: UUIDv7 that sort by the order in which they were made."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from ipyconvexai.ids import new_id


def test_they_are_uuids_of_version_7_with_the_time():
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(new_id())
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000 + 1000


def test_they_sort_by_the_order_they_were_made_in():
    made = [new_id() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_a_clock_that_stands_still_or_goes_back_does_not_matter():
    later = time.time_ns() + 10**9
    made = [new_id(now_ns=lambda: later), new_id(now_ns=lambda: later), new_id(now_ns=lambda: later - 10**9)]
    assert made == sorted(set(made))


def test_threads_share_the_order():
    with ThreadPoolExecutor(8) as pool:
        made = [one for many in pool.map(lambda _: [new_id() for _ in range(500)], range(8)) for one in many]
    assert len(set(made)) == len(made)
