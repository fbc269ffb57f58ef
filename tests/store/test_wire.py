"""Messages: plain values only, errors arrive as themselves, and what cannot travel fails alone."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import os
import pathlib
import pickle
import subprocess
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing import Pipe as connections
from typing import Any

import numpy
import pytest

from ipyconvexai import errors
from ipyconvexai.errors import Error, InputError, KeeperUnavailableError, StoreError
from ipyconvexai.store import pipe, wire
from ipyconvexai.store.pipe import LoopReceipt, Pipe, ThreadReceipt

PLAIN = [
    None, True, 1, 10**40, 1.5, "text", "half \ud800", b"bytes", [1, [2]], {"a": {"b": 1}}, (1, 2), {1, 2},
    datetime.datetime(2026, 1, 2), datetime.date(2026, 1, 2), datetime.timedelta(1), uuid.UUID(int=5),
    decimal.Decimal("1.5"),
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_values_travel(value: Any):
    assert wire.unpack(wire.pack(value)) == value


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HOSTILE = [
    Call(os.system, "true"),
    Call(subprocess.Popen, ["true"]),
    Call(eval, "1"),
    Call(exec, "1"),
    Call(getattr, "a", "upper"),
    Call(__import__, "os"),
    Call(pickle.loads, b"N."),
    Call(open, "/dev/null"),
    pathlib.Path("/"),
    threading.Thread,
    ValueError("an exception"),
    print,
    int,
]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(getattr(value, "call", value)))
def test_the_unpickler_builds_nothing_else(value: Any):
    with pytest.raises(InputError, match="cannot be written"):
        wire.unpack(pickle.dumps(["before", value]))


@pytest.mark.parametrize("value", [lambda: 0, threading.Lock(), (n for n in "ab")], ids=["lambda", "lock", "generator"])
def test_what_has_no_bytes_is_an_input_error(value: Any):
    with pytest.raises(InputError, match="cannot be written"):
        wire.pack(value)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_of_the_tree_arrives_as_itself(name: str):
    error = getattr(errors, name)("what", cure="how", retryable=True, retry_after=1.5)
    arrived = wire.rebuild(wire.unpack(wire.pack(wire.describe(error))))
    assert type(arrived) is type(error)
    assert vars(arrived) == vars(error)


def test_other_errors_arrive_as_store_errors():
    arrived = wire.rebuild(wire.describe(ZeroDivisionError("by zero")))
    assert type(arrived) is StoreError
    assert "ZeroDivisionError: by zero" in arrived.message
    assert type(wire.rebuild({"type": "os", "message": "x"})) is StoreError


def test_a_line_stays_usable_after_what_cannot_travel():
    near, far = connections()
    line = wire.Line(near)
    with pytest.raises(InputError):
        line.ask("read", lambda: 0)
    assert line.at_rest
    far.send_bytes(wire.pack(wire.BUSY))  # work goes on
    far.send_bytes(wire.pack((True, 42)))
    assert line.ask("read") == 42
    line.close()
    far.close()


def test_a_silent_keeper_is_reported_and_its_line_never_used_again():
    near, far = connections()
    line = wire.Line(near)
    with pytest.raises(KeeperUnavailableError, match=r"0\.05 s"):
        line.ask("read", patience=0.05)
    assert not line.at_rest
    line.close()
    far.close()


# ---------------------------------------------------------------------------------------------- the pipe
class Keeper:
    """Stands for the other side: packs what it is given as the real one would, and keeps it."""

    def __init__(self) -> None:
        self.messages: list[list[Any]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, inserts: list[Any], sent: Callable[[], None]) -> list[Any]:
        self.gate.wait(10)
        wire.pack(inserts)
        sent()
        self.messages.append(inserts)
        return [None] * len(inserts)


def put(lane: Pipe, *values: Any) -> Future[None]:
    future: Future[None] = Future()

    def receipt(error: Error | None) -> None:
        future.set_result(None) if error is None else future.set_exception(error)

    lane.put(("t", ("a",), [values], False), receipt)
    return future


def test_what_waits_together_travels_together():
    keeper = Keeper()
    keeper.gate.clear()
    lane = Pipe(keeper)
    futures = [put(lane, number) for number in range(200)]
    keeper.gate.set()
    for future in futures:
        future.result(10)
    lane.close()
    assert len(keeper.messages) < 10
    assert sum(map(len, keeper.messages)) == 200


def test_one_message_does_not_grow_beyond_its_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pipe, "MESSAGE_SIZE", 10_000)
    keeper = Keeper()
    keeper.gate.clear()
    lane = Pipe(keeper)
    futures = [put(lane, "x" * 4000) for _ in range(30)]
    keeper.gate.set()
    for future in futures:
        future.result(10)
    lane.close()
    assert max(map(len, keeper.messages)) <= 3


def test_an_insert_that_cannot_travel_fails_alone():
    keeper = Keeper()
    keeper.gate.clear()
    lane = Pipe(keeper)
    futures = [put(lane, value) for value in ("one", "two", lambda: 0, "three")]
    keeper.gate.set()
    failures = [future.exception(10) for future in futures]
    lane.close()
    assert [type(failure) for failure in failures] == [type(None), type(None), InputError, type(None)]


def test_a_faulty_receipt_harms_nobody():
    lane = Pipe(Keeper())

    def faulty(error: Error | None) -> None:
        raise ZeroDivisionError

    lane.put(("t", ("a",), [(1,)], False), faulty)
    put(lane, 2).result(10)
    lane.close()


def test_closing_writes_what_waits_and_refuses_what_comes_after():
    keeper = Keeper()
    lane = Pipe(keeper)
    futures = [put(lane, number) for number in range(1000)]
    lane.close()
    assert all(future.done() for future in futures)
    with pytest.raises(StoreError, match="closed"):
        put(lane, "late").result(1)


def test_a_loop_waits_for_its_receipts():
    lane = Pipe(Keeper())

    async def main() -> None:
        receipts = [LoopReceipt() for _ in range(10)]
        for receipt in receipts:
            lane.put(("t", ("a",), [(1,)], False), receipt)
        await asyncio.wait_for(asyncio.gather(*(receipt.future for receipt in receipts)), 10)
        bad = LoopReceipt()
        lane.put(("t", ("a",), [(lambda: 0,)], False), bad)
        with pytest.raises(InputError):
            await bad.future
        cancelled = LoopReceipt()
        cancelled.future.cancel()
        lane.put(("t", ("a",), [(1,)], False), cancelled)

    asyncio.run(main())
    waiting = ThreadReceipt()  # after the loop was closed all goes on
    lane.put(("t", ("a",), [(1,)], False), waiting)
    waiting.result(10)
    lane.close()


def test_a_string_of_numpy_travels_as_a_plain_one():
    (value,) = wire.unpack(wire.pack([numpy.str_("text")]))
    assert (type(value), value) == (str, "text")
