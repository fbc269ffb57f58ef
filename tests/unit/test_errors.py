"""The error tree: its picture is true, and an error shows itself in one block."""

from __future__ import annotations

import errno
import inspect
import pickle
import re
import ssl
import traceback
from typing import Any

import aiohttp
import httpx2
import openai
import pytest
from aiohttp.client_reqrep import ConnectionKey

from ipyconvexai import errors
from ipyconvexai.functions.schedules import Expression
from ipyconvexai.providers import faults

PLACE: Any = ConnectionKey("gpu", 443, True, True, None, None, None)


def test_the_picture_shows_the_whole_tree():
    lines = re.findall(r"^    ([│├└─ ]*)(\w*Error|Unauthenticated)\b", errors.__doc__ or "", re.MULTILINE)
    picture = {name: len(indent) for indent, name in lines}
    assert set(picture) == set(errors.__all__)
    stack: list[tuple[int, str]] = []
    for name, depth in picture.items():
        stack = [(other, above) for other, above in stack if other < depth]
        if stack:
            assert issubclass(getattr(errors, name), getattr(errors, stack[-1][1])), name
        stack.append((depth, name))


def test_every_error_of_the_module_is_listed():
    defined = [name for name, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, errors.Error)]
    assert sorted(defined) == sorted(errors.__all__)


def test_codes_are_words_of_their_own():
    codes = [getattr(errors, name).code for name in errors.__all__]
    shared = {code for code in codes if codes.count(code) > 1}
    assert shared == set()


def test_an_error_is_one_block():
    error = errors.RateLimitError("too fast", cure="Wait.\nThen go on.", request_id="r-1", retry_after=2)
    assert str(error) == "too fast\nWait.\nThen go on."
    assert error._render_traceback_() == [
        "RateLimitError: too fast",
        "  Wait.",
        "  Then go on.",
        "  recorded as request r-1",
    ]
    assert (error.retryable, error.retry_after, error.code) == (True, 2, "rate_limit")


def test_a_line_that_a_dataclass_wrote_is_not_the_users():
    code = compile("Expression('0 2 * *', 'UTC')", "<cell>", "exec")
    with pytest.raises(errors.InputError) as caught:
        exec(code, {"Expression": Expression})
    assert "<string>" in [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert errors.users_line(caught.value.__traceback__) == "<cell>:1"


def test_a_call_may_know_better():
    error = errors.ProviderError("x", code="special", retryable=True)
    assert (error.code, error.retryable) == ("special", True)


@pytest.mark.parametrize("name", errors.__all__)
def test_they_can_be_pickled(name: str):
    error = pickle.loads(pickle.dumps(getattr(errors, name)("what happened", cure="the cure", request_id="r")))
    assert (error.message, error.cure, error.request_id) == ("what happened", "the cure", "r")


def _certificate_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed (_ssl.c:1000)")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (aiohttp.ClientConnectorError(PLACE, OSError(errno.ECONNREFUSED, "Connect call")), "connection refused"),
        (aiohttp.ClientConnectorDNSError(PLACE, OSError(None, "Name not known")), "Name not known"),
        (aiohttp.ClientConnectorCertificateError(PLACE, _certificate_error()), "not trusted: self-signed certificate"),
        (aiohttp.ClientConnectorSSLError(PLACE, ssl.SSLError(1, "[SSL: WRONG] wrong version (_ssl.c:9)")), "wrong v"),
        (OSError("[Errno 111] something"), "something"),
    ],
    ids=["refused", "name", "certificate", "tls", "other"],
)
def test_a_lost_connection_is_told_as_people_say_it(cause: Exception, said: str):
    error = httpx2.ConnectTimeout("as the transport maps it")
    error.__cause__ = cause
    shown = faults.transport_fault(error, httpx2.Request("POST", "https://gpu/v1"), "r-1").message
    assert shown.startswith("no connection to https://gpu: ")
    assert said in shown
    assert not re.search(r"ssl:|Errno|_ssl|\[|Cannot connect", shown), shown


@pytest.mark.parametrize(
    ("kind", "ours", "theirs"),
    [
        (faults.Unreachable, errors.UnreachableError, openai.APIConnectionError),
        (faults.TimedOut, errors.CallTimeoutError, openai.APITimeoutError),
        (faults.StreamCut, errors.StreamCutError, openai.APIConnectionError),
        (faults.Refused, errors.RefusedError, openai.APIConnectionError),
        (faults.ReplayMiss, errors.ReplayMissError, openai.APIConnectionError),
        (faults.Unreadable, errors.InvalidAnswerError, openai.APIConnectionError),
    ],
)
def test_faults_are_of_both_trees_and_pickle_without_headers(kind: type, ours: type, theirs: type):
    request = httpx2.Request("POST", "http://x/v1", headers={"authorization": "Bearer sk-hush"})
    fault: Any = kind("what happened", request, "r-1", cure="the cure")
    assert issubclass(kind, ours)
    assert issubclass(kind, theirs)
    data = pickle.dumps(fault)
    assert b"sk-hush" not in data
    again: Any = pickle.loads(data)
    assert [type(again)] == [kind]
    assert (str(again), again.request_id, again.code, str(again.request.url)) == (
        str(fault),
        "r-1",
        fault.code,
        "http://x/v1",
    )


def test_what_an_error_quotes_steers_no_terminal():
    error = errors.InputError("no \x1b]8;;http://x\x07title\u202e and\ttabs", cure="see \x9b31m\nbelow")
    assert error._render_traceback_() == [
        "InputError: no \ufffd]8;;http://x\ufffdtitle\ufffd and\ttabs",
        "  see \ufffd31m",
        "  below",
    ]
