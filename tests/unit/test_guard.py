"""What a query or a mutation may not do is refused, and nothing else is."""

from __future__ import annotations

import contextvars
import os
import socket
import subprocess
import sys
import threading

import pytest

from ipyconvexai import guard
from ipyconvexai.errors import NotAllowedError


def connect() -> None:
    with socket.socket() as connection:
        connection.settimeout(1)
        connection.connect(("127.0.0.1", 9))


def bind() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))


def send() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.sendto(b"x", ("127.0.0.1", 9))


FORBIDDEN = {
    "connect": connect,
    "bind": bind,
    "sendto": send,
    "getaddrinfo": lambda: socket.getaddrinfo("127.0.0.1", 80),
    "gethostbyname": lambda: socket.gethostbyname("127.0.0.1"),
    "gethostbyname_ex": lambda: socket.gethostbyname_ex("127.0.0.1"),
    "Popen": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
    "system": lambda: os.system("true"),
    "posix_spawn": lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_the_network_and_processes_are_refused(name):
    with guard.inside("mutation", "send_message"):
        with pytest.raises(NotAllowedError, match=r"is not allowed in the mutation `send_message`") as caught:
            FORBIDDEN[name]()
    assert "@ai.action" in caught.value.cure


@pytest.mark.parametrize("name", ["bind", "getaddrinfo", "system"])
def test_outside_and_lifted_nothing_is_refused(name):
    FORBIDDEN[name]()
    with guard.inside("query", "q"):
        with guard.lifted():
            FORBIDDEN[name]()
        with pytest.raises(NotAllowedError):
            FORBIDDEN[name]()
    FORBIDDEN[name]()


def fork_and_end() -> None:
    if os.fork() == 0:
        os._exit(0)


def test_fork_is_refused_before_there_is_a_child():
    with guard.inside("query", "q"), pytest.raises(NotAllowedError, match="starting a process"):
        fork_and_end()


@pytest.mark.parametrize("event", ["os.exec", "os.forkpty", "os.spawn", "time.sleep", "_thread.start_new_thread"])
def test_events_that_are_not_caused_here(event):
    with guard.inside("query", "q"), pytest.raises(NotAllowedError, match="`q`"):
        sys.audit(event)
    sys.audit(event)


def test_other_events_pass():
    with guard.inside("query", "q"):
        sys.audit("import", "x")
        with open(os.devnull) as file:
            file.read()
        left, right = socket.socketpair()
        left.close()
        right.close()


def test_current_and_check():
    assert guard.current() is None
    guard.check("calling a model")
    with guard.inside("mutation", "outer"):
        with guard.inside("query", "inner"):
            assert guard.current() == "query"
            with pytest.raises(NotAllowedError, match=r"^calling a model is not allowed in the query `inner`"):
                guard.check("calling a model")
        assert guard.current() == "mutation"
        with guard.lifted():
            assert guard.current() is None
            guard.check("calling a model")
        with pytest.raises(NotAllowedError, match="`outer`"):
            guard.check("calling a model")
    assert guard.current() is None


def test_left_by_an_error():
    with pytest.raises(ZeroDivisionError), guard.inside("query", "q"):
        _ = 1 / 0
    assert guard.current() is None


def test_other_threads_are_not_inside():
    seen: list[object] = []
    with guard.inside("query", "q"):
        with guard.lifted():  # from Python 3.12 on a start is refused
            thread = threading.Thread(target=lambda: seen.append(guard.current()))
            thread.start()
        thread.join()
    assert seen == [None]


def test_a_copied_context_ends_with_its_original():
    with guard.inside("query", "q"):
        copy = contextvars.copy_context()
        assert copy.run(guard.current) == "query"
    assert copy.run(guard.current) is None
    copy.run(guard.check, "calling a model")
    copy.run(bind)


def test_importing_installs_nothing():
    code = (
        "import sys; added = []; real = sys.addaudithook; \n"
        "sys.addaudithook = lambda hook: (added.append(1), real(hook))\n"
        "from ipyconvexai import guard; assert not added\n"
        "for _ in range(3):\n  with guard.inside('query', 'q'): pass\n"
        "assert added == [1]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
