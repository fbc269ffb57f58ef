"""One thread per ledger that hears which tables changed, and tells whoever asked: watchers, live views, the scheduler.

Calls the store. Promises: the thread begins with the first subscriber and ends with the last; after a lost keeper all
are told to look at everything; a subscriber that fails harms no other; after a fork the child begins anew.
"""

from __future__ import annotations

import itertools
import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from ipyconvexai.errors import Error
from ipyconvexai.loops import call_in_child
from ipyconvexai.store.link import Store

__all__ = ["Hub", "hub_of"]

RETRY = 1.0  # seconds, where the ledger cannot be reached

Notice = Callable[[set[str]], None]  # given names of tables; an empty set says: look at everything

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Subscriber:
    notice: Notice
    ended: Callable[[], None]


def _nothing() -> None:
    pass


class Hub:
    """Changes of one store, for any number of subscribers."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._begin()
        call_in_child(self, Hub._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: tuple[_Subscriber, ...] = ()
        self._gone = threading.Event()  # set when the thread that listens has nobody left to tell
        self._numbers = itertools.count(1)

    def subscribe(self, notice: Notice, ended: Callable[[], None] = _nothing) -> Callable[[], None]:
        """Have `notice` called with the names of the tables that each commit changed; gives what ends that.

        Commits that come within about 50 ms are told as one. Called in the hub's thread: hand over and return. `ended`
        is called when the store was closed. Subscribe first, then look: of what is committed from then on nothing is
        missed.
        """
        subscriber = _Subscriber(notice, ended)
        with self._lock:
            first, self._subscribers = not self._subscribers, (*self._subscribers, subscriber)
            if first:
                self._gone = threading.Event()
                name = f"ipyconvexai-changes-{next(self._numbers)}"
                threading.Thread(target=self._listen, args=(self._gone,), name=name, daemon=True).start()
        return lambda: self._remove(subscriber)

    def _remove(self, subscriber: _Subscriber) -> None:
        with self._lock:
            if subscriber not in self._subscribers:
                return
            self._subscribers = tuple(other for other in self._subscribers if other is not subscriber)
            if not self._subscribers:
                self._gone.set()

    def _listen(self, gone: threading.Event) -> None:
        while not gone.is_set():
            try:
                for names in self._store.changes(gone.is_set):
                    if gone.is_set():
                        return
                    self._tell(names)
            except Error as error:  # no keeper could be reached for a long while
                _log.warning("changes of %s are not heard at the moment: %s", self._store.path, error)
                gone.wait(RETRY)
            else:
                self._end(gone)
                return

    def _tell(self, names: set[str]) -> None:
        for subscriber in self._subscribers:
            try:
                subscriber.notice(names)
            except Exception:
                _log.exception("a subscriber to changes failed")

    def _end(self, gone: threading.Event) -> None:
        """The store was closed: nobody will be told anything any more."""
        with self._lock:
            if gone is not self._gone or gone.is_set():  # the subscribers are others by now
                return
            subscribers, self._subscribers = self._subscribers, ()
            gone.set()
        for subscriber in subscribers:
            subscriber.ended()


_hubs: weakref.WeakValueDictionary[int, Hub] = weakref.WeakValueDictionary()  # a hub keeps its store, so ids are safe
_hubs_lock = threading.Lock()


def hub_of(store: Store) -> Hub:
    """The one hub of `store`."""
    with _hubs_lock:
        hub = _hubs.get(id(store))
        if hub is None:
            hub = _hubs[id(store)] = Hub(store)
        return hub
