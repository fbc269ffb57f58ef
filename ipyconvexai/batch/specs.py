"""A batch that runs later, as JSON: what is done, to what, with which options; and back. Calls the ledger's rows.

Promises: what cannot be written down is refused when the batch is scheduled, with its name; a class that stands in no
module is kept as its JSON schema; nothing of a spec is evaluated when it is read.
"""

from __future__ import annotations

import dataclasses
import enum
import glob
import importlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipyconvexai.application import App
from ipyconvexai.batch import stored_frames
from ipyconvexai.batch.opening import open_source
from ipyconvexai.errors import ConfigurationError, InputError
from ipyconvexai.functions.registry import Function, Kind, of
from ipyconvexai.functions.validation import nearest
from ipyconvexai.relation import Relation

__all__ = ["OPERATIONS", "Kept", "Spec", "keep_data", "kind_of", "look_at", "opened", "plain", "revived", "spec_of"]

OPERATIONS = ("summarize", "map", "reduce")
_NOT_LATER = {"dry_run": "a dry run says what it would take now", "resume": "what is answered is never sent again"}
_SQL = re.compile(r"\s*(?:SELECT|WITH|FROM)\s", re.IGNORECASE)
_IMPORT, _SCHEMA = "$import", "$schema_of"


@dataclass(frozen=True, slots=True)
class Spec:
    """
    Attributes:
        id: of the job, or of what is repeated.
        kind: one of `OPERATIONS`.
        data: {"frame": id, "as": kind, "print": hash of its rows}, {"path": text}, {"sql": text} or {"query": name}.
        options: plain values, but for `revived`.
        notify: addresses.
    """

    id: str
    name: str
    kind: str
    data: dict[str, str]
    args: list[Any] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    notify: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Spec:
        """
        Raises:
            InputError: it is none: written by another version, or removed by a purge.
        """
        try:
            return cls(**value)
        except TypeError:
            raise InputError(
                "what this batch was to do is not in the ledger as this version writes it", cure="Schedule it again."
            ) from None

    @property
    def source(self) -> str:
        """In words, for people."""
        if "frame" in self.data:
            return f"a {self.data['as']} frame"
        return next(iter(self.data.values()))


def kind_of(fn: Any) -> str:
    """The operation that is meant by ``ai.summarize`` or by its name.

    Raises:
        InputError: it is none that can run later.
    """
    name = fn if isinstance(fn, str) else getattr(fn, "__name__", None)
    ours = isinstance(fn, str) or str(getattr(fn, "__module__", "")).startswith("ipyconvexai.")
    word = str(name).removeprefix("ai.")
    if ours and word in OPERATIONS:
        return word
    alike = nearest(word, OPERATIONS)
    hint = f"Did you mean ai.{alike[0]}? " if alike else ""
    raise InputError(
        f"{name or fn!r:.80} is no batch that can run later",
        cure=f"{hint}Use ai.summarize, ai.map or ai.reduce; other functions: ctx.scheduler.run_at(...) in a mutation.",
    )


# ---------------------------------------------------------------------------------------------- plain values
def plain(name: str, value: Any) -> Any:
    """`value` of the option `name` as JSON has it.

    Raises:
        InputError: it has no such form.
    """
    if isinstance(value, enum.Enum):
        return plain(name, value.value)
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, os.PathLike):
        return os.path.abspath(os.path.expanduser(os.fspath(value)))
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(name, item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(name, item) for key, item in value.items()}
    if name == "schema":
        return _kept_schema(value)
    raise InputError(
        f"{name}={value!r:.80} cannot be written down for later ({type(value).__name__})",
        cure="Use plain values: texts, numbers, lists; or run the batch now.",
    )


def _kept_schema(schema: Any) -> dict[str, Any]:
    """By the place where it can be imported, else as JSON schema: a notebook's classes are nowhere else."""
    place = f"{getattr(schema, '__module__', '')}:{getattr(schema, '__qualname__', '')}"
    if isinstance(schema, type) and not place.startswith("__"):
        try:
            if _imported(place) is schema:
                return {_IMPORT: place}
        except ConfigurationError:
            pass
    from ipyconvexai.providers.schemas import json_schema

    return {_SCHEMA: json.loads(json.dumps(json_schema(schema)))}


def _imported(place: str) -> Any:
    module, _, path = place.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # a module may do anything when it is imported
        raise ConfigurationError(
            f"the class {place} cannot be imported here: {type(error).__name__}",
            cure="Run it where its module can be imported, or schedule the batch with the schema as text.",
        ) from None
    return found


def revived(value: Any) -> Any:
    """What ``plain`` made of it, as an operation takes it.

    Raises:
        ConfigurationError: a class cannot be imported here.
    """
    if isinstance(value, Mapping):
        if set(value) == {_IMPORT}:
            return _imported(value[_IMPORT])
        if set(value) == {_SCHEMA}:
            return value[_SCHEMA]
        return {key: revived(item) for key, item in value.items()}
    return [revived(item) for item in value] if isinstance(value, list) else value


def checked_options(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as they are kept.

    Raises:
        InputError: one makes no sense later, or cannot be written down.
    """
    for name, why in _NOT_LATER.items():
        if options.get(name):
            raise InputError(f"{name}= is nothing for later: {why}", cure=f"Leave it out, or run ai.{kind} now.")
    kept = {name: plain(name, value) for name, value in options.items() if name not in (*_NOT_LATER, "progress")}
    if "output" in kept and isinstance(kept["output"], str):  # the worker is elsewhere
        kept["output"] = os.path.abspath(os.path.expanduser(kept["output"]))
    return kept


# ---------------------------------------------------------------------------------------------- data
@dataclass(frozen=True, slots=True)
class Kept:
    """`data` for a spec; `sample`: something of the same columns, to check the options by; `table`: rows to keep."""

    data: dict[str, str]
    sample: Any
    table: Any = None


def look_at(app: App, data: Any, words: Sequence[Any], frame_id: str, *, repeated: bool) -> Kept:
    """What is to be kept of `data`; nothing is written. `words`: values that may name columns.

    Raises:
        InputError: it is no frame, path, SQL or query, or is not there.
        QueryError: wrong SQL.
    """
    if hasattr(data, "ai_function") or isinstance(data, Function):
        return _of_query(app, of(data))
    if isinstance(data, str) and _SQL.match(data):
        head = app.records.arrow(f"SELECT * FROM ({data.strip().rstrip(';')}) LIMIT 0")
        return Kept({"sql": data}, Relation(head).arrow())
    if isinstance(data, str | os.PathLike):
        path = _path(os.fspath(data), repeated)
        return Kept({"path": path}, path)
    if isinstance(data, Relation):
        data = data.arrow()
    if not app.settings.keeps_content:
        raise InputError(
            'this ledger keeps no content (record="metadata"), and rows for later would be content',
            cure="Write them to a file of yours, and schedule its path; or schedule SQL or a query.",
        )
    columns = _needed(stored_frames.columns_of(data), words)
    kind, table = stored_frames.as_table(data, columns)
    print_of = open_source(table).fingerprint()
    return Kept(
        {"frame": frame_id, "as": kind, "print": print_of}, stored_frames.native(kind, table.slice(0, 1)), table
    )


def keep_data(app: App, kept: Kept) -> None:
    """Write the rows, if there are any to keep. Blocking."""
    if kept.table is not None:
        stored_frames.keep(app.store, kept.data["frame"], kept.table)


def _of_query(app: App, function: Function) -> Kept:
    if function.kind is not Kind.QUERY:
        raise InputError(
            f"{function.name} is {function.kind} and no query", cure="Put @ai.query above a function that gives rows."
        )
    return Kept({"query": function.name}, _rows_of(app, function))


def _rows_of(app: App, function: Function) -> Any:
    """The result of a query as a table."""
    import pyarrow as pa

    rows = app.functions.run_in_transaction(function, {})
    try:
        table = pa.Table.from_pylist([_as_row(row) for row in rows])
    except (TypeError, pa.ArrowException):
        raise InputError(
            f"{function.name} gives no rows", cure="It must return a list of documents, or of dicts of plain values."
        ) from None
    if not table.column_names:  # of no rows nobody knows the columns
        return None
    return table


def _as_row(row: Any) -> dict[str, Any]:
    if isinstance(row, Mapping):
        return dict(row)
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        found = {one.name: getattr(row, one.name) for one in dataclasses.fields(row)}
    elif hasattr(row, "model_dump"):
        found = row.model_dump(mode="json")
    else:
        raise TypeError
    key = getattr(row, "_id", None)
    return found if key is None else {"_id": str(key), **found}


def _path(text: str, repeated: bool) -> str:
    """Absolute, as it may run in another folder; what is no file of this machine's stays as it is."""
    if "://" in text:
        return text
    path = os.path.abspath(os.path.expanduser(text))
    if not repeated and not Path(path).exists() and not glob.glob(path, recursive=True):
        raise InputError(f"no file {path}", cure="Check the path; SQL begins with SELECT, WITH or FROM.")
    return path


def _needed(columns: Sequence[Any], words: Sequence[Any]) -> list[Any]:
    """The columns that are named, alone or as ``{column}`` in a text; all of them where none is."""
    texts = list(_texts(words))
    named = [name for name in columns if any(str(name) == text or f"{{{name}" in text for text in texts)]
    return named or list(columns)


def _texts(value: Any) -> Sequence[str]:
    if isinstance(value, str | int):
        return [str(value)]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [text for item in value for text in _texts(item)] if isinstance(value, list | tuple) else []


def opened(app: App, data: Mapping[str, str]) -> Any:
    """What an operation is given: the frame, a path, a table of what SQL or a query gives now. Blocking.

    Raises:
        NotFoundError: the rows were removed.
        QueryError, UnknownFunctionError: the SQL is wrong by now, the query is not defined here.
    """
    if "frame" in data:
        return stored_frames.native(data["as"], stored_frames.read_back(app.store, data["frame"]))
    if "sql" in data:
        return Relation(app.records.arrow(data["sql"])).arrow()
    if "query" in data:
        return _rows_of(app, of(data["query"]))
    return data["path"]


def spec_of(args: str) -> Spec | None:
    """What stands in a row's arguments; None where it was removed."""
    try:
        return Spec.of(json.loads(args)["spec"])
    except (KeyError, ValueError, TypeError):
        return None
