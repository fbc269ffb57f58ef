"""``df.ai``: the batches as methods of pandas' and polars' frames. Floor 7: calls the public names when it is used.

Promises: it is there whichever comes first, ``import pandas`` or ``import ipyconvexai``; neither library is imported
for it, and nothing of the package before it is used; an import of theirs that fails, fails as without it.
"""

from __future__ import annotations

import _thread  # of which threading is made, and which costs nothing to import
import importlib
import sys
from typing import Any

__all__ = ["BatchAccessor", "install"]

NAMES = ("summarize", "map", "reduce", "estimate")

_guard = _thread.allocate_lock()
_seeking = _thread._local()


class _Method:
    """A public function with the frame as its first argument; found when it is looked at, with signature and help."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, accessor: BatchAccessor | None, owner: type) -> Any:
        function = getattr(importlib.import_module("ipyconvexai"), self._name)
        return function if accessor is None else _bound(function, accessor._frame)


def _bound(function: Any, frame: Any) -> Any:
    import functools
    import inspect

    @functools.wraps(function)
    def method(*args: Any, **options: Any) -> Any:
        return function(frame, *args, **options)

    signature = inspect.signature(function)
    method.__signature__ = signature.replace(  # type: ignore[attr-defined] # inspect's own protocol
        parameters=list(signature.parameters.values())[1:]
    )
    return method


class BatchAccessor:
    """Batches over this frame: ``df.ai.summarize("text")``, ``.map("Classify: {title}")``, ``.reduce("text")``,
    ``.estimate(...)``; as ``ai.summarize(df, "text")`` and so on, which have the help."""

    summarize = _Method("summarize")
    map = _Method("map")
    reduce = _Method("reduce")

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def estimate(self, fn: Any, *args: Any, **options: Any) -> Any:
        """What a batch over this frame would take: ``df.ai.estimate(ai.summarize, "text")``. Nothing is sent."""
        return importlib.import_module("ipyconvexai").estimate(fn, self._frame, *args, **options)

    def __dir__(self) -> list[str]:
        return list(NAMES)

    def __repr__(self) -> str:
        return f"<ai: .{'(...) .'.join(NAMES)}(...)>"


def _into_pandas(pandas: Any) -> None:
    if not hasattr(pandas.DataFrame, "ai"):  # another's, or ours of before a reload: pandas would warn
        pandas.api.extensions.register_dataframe_accessor("ai")(BatchAccessor)


def _into_polars(polars: Any) -> None:
    for kind, register in (
        (polars.DataFrame, polars.api.register_dataframe_namespace),
        (polars.LazyFrame, polars.api.register_lazyframe_namespace),
    ):
        if not hasattr(kind, "ai"):
            register("ai")(BatchAccessor)


_REGISTER = {"pandas": _into_pandas, "polars": _into_polars}


def _register(name: str, module: Any) -> None:
    try:
        _REGISTER[name](module)
    except Exception:  # a version that does it otherwise: it is no reason for its import to fail
        pass


def install() -> None:
    """Register with what is imported already, and with the others when they are. May be called again."""
    waiting = []
    for name in _REGISTER:
        module = sys.modules.get(name)
        if module is None:
            waiting.append(name)
            continue
        if getattr(getattr(module, "__spec__", None), "_initializing", False):
            try:
                module = importlib.import_module(name)  # another thread is at it: this waits for it
            except Exception:
                waiting.append(name)
                continue
        _register(name, module)
    with _guard:
        if waiting and not any(type(finder).__name__ == _Finder.__name__ for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder(waiting))


class _Finder:
    """Finds nothing itself: it sees to it that what the others find is followed by a registration, once."""

    def __init__(self, names: list[str]) -> None:
        self._names = set(names)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self._names or getattr(_seeking, "now", False):
            return None
        _seeking.now = True  # others may ask all finders, too
        try:
            spec = self._of_others(name, path, target)
        finally:
            _seeking.now = False
        if spec is not None and spec.loader is not None:
            self._follow(name, spec.loader)
        return spec

    def _of_others(self, name: str, path: Any, target: Any) -> Any:
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is not self and find is not None and (spec := find(name, path, target)) is not None:
                return spec
        return None

    def _follow(self, name: str, loader: Any) -> None:
        """Let the loader's next execution of the module be followed by ours; the loader itself stays what it is."""
        run = loader.exec_module

        def exec_module(module: Any) -> None:
            try:
                del loader.exec_module
            except AttributeError:
                pass
            run(module)
            if module.__name__ == name:
                _register(name, module)
                self._done(name)

        try:
            loader.exec_module = exec_module
        except AttributeError:  # a loader that cannot be changed
            pass

    def _done(self, name: str) -> None:
        with _guard:
            self._names.discard(name)
            if not self._names and self in sys.meta_path:
                sys.meta_path.remove(self)
