"""Ctrl-C while parts of the package are first imported: it is held, and raised when they are there.

Floor 0: calls nothing of the package. Promises: no Ctrl-C is lost to imports in a ``with held()`` block, and none
leaves a module half made; the second one is not held. Each import ends in a callback of a weak reference
(`_get_module_lock` of ``importlib._bootstrap``), and CPython drops what a callback raises ("Exception ignored in"): of
60 interrupts of a first ``import pandas, openai`` one was lost there, and two came out as an ImportError of pandas.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

__all__ = ["held"]


@contextlib.contextmanager
def held() -> Iterator[None]:
    """What imports much goes in here. Other threads get no interrupts; who handles them in another way, also from
    within, goes on doing so.

    Raises:
        KeyboardInterrupt: at the end, where a Ctrl-C came; at once, where a second one did.
    """
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came = False

    def note(number: int, frame: object) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, _at_once)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    except KeyboardInterrupt:
        came = False
        raise
    finally:
        if signal.getsignal(signal.SIGINT) in (note, _at_once):
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if came:
            raise KeyboardInterrupt from None


def _at_once(number: int, frame: object) -> None:
    """As Python's own; but a block within the first one does not take it for that, and hold the second one, too."""
    raise KeyboardInterrupt
