"""The collector of cycles is off while somebody wants it off, and as it was before when nobody does."""

from __future__ import annotations

import gc
import os
import threading

import pytest

from ipyconvexai.batch.collector import RARE, put_off, rarer


def test_it_is_off_until_the_last_has_gone():
    assert gc.isenabled()
    inside, may_go = threading.Event(), threading.Event()

    def other() -> None:
        with put_off():
            inside.set()
            may_go.wait(10)

    thread = threading.Thread(target=other)
    with put_off():
        thread.start()
        assert inside.wait(10)
        assert not gc.isenabled()
    assert not gc.isenabled(), "the other thread is not done"
    may_go.set()
    thread.join()
    assert gc.isenabled()


def test_an_error_leaves_it_on():
    with pytest.raises(ValueError, match="wrong"):
        with put_off():
            raise ValueError("wrong")
    assert gc.isenabled()


def test_who_has_it_off_finds_it_off():
    gc.disable()
    try:
        with put_off():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_the_child_of_a_fork_does_not_inherit_it():
    with put_off():
        child = os.fork()
        if child == 0:
            os._exit(0 if gc.isenabled() else 1)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert gc.isenabled()


def test_it_is_rarer_until_the_last_has_gone():
    before = gc.get_threshold()
    assert before[0] < RARE
    with rarer():
        with rarer():
            assert gc.get_threshold() == (RARE, *before[1:])
        assert gc.get_threshold() == (RARE, *before[1:])
    assert gc.get_threshold() == before


@pytest.mark.parametrize("own", [0, RARE + 1])
def test_who_has_it_rarer_still_finds_it_so(own):
    before = gc.get_threshold()
    gc.set_threshold(own)
    try:
        with rarer():
            assert gc.get_threshold()[0] == own
        assert gc.get_threshold()[0] == own
    finally:
        gc.set_threshold(*before)
