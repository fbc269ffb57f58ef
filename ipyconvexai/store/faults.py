"""Translates DuckDB's errors into ours, once, at the border. Calls duckdb and ``errors``."""

from __future__ import annotations

import re

import duckdb

from ipyconvexai import errors

__all__ = ["is_fatal", "translate"]

_HOLDER = re.compile(r"held in (?P<program>.*?) \(PID (?P<pid>\d+)\)")
_NO_ROOM = ("No space left on device", "File too large", "Disk quota exceeded")
_DAMAGED = ("not a valid DuckDB database file", "orrupt", "checksum")
_FOREIGN_VERSION = "Trying to read a database file with version number"
_NOT_WRITABLE = ("Permission denied", "Read-only file system", "Cannot open file", "attached in read-only mode")
_WRONG_SQL = (
    duckdb.ParserException,
    duckdb.SyntaxException,
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    duckdb.OutOfRangeException,
    duckdb.TypeMismatchException,
    duckdb.PermissionException,
)


def is_lock_conflict(error: BaseException) -> bool:
    return isinstance(error, duckdb.IOException) and "Could not set lock" in str(error)


def is_fatal(error: BaseException) -> bool:
    """Whether DuckDB has given the open database up: close it and open it again."""
    return isinstance(error, duckdb.FatalException) or "database has been invalidated" in str(error)


def translate(error: BaseException, path: str) -> errors.Error:
    """The error of our tree for what DuckDB raised on the file `path`; one of our own passes unchanged."""
    if isinstance(error, errors.Error):
        return error
    text = str(error)
    if is_lock_conflict(error):
        holder = _HOLDER.search(text)
        who = f"{holder['program']} (PID {holder['pid']})" if holder else "another program"
        return errors.LedgerLockedError(
            f"the ledger {path} is open in {who}",
            cure="Close it there, then repeat. Nothing was sent." + (f" (kill {holder['pid']} ends it)" if holder else ""),
        )
    if any(sign in text for sign in _NO_ROOM):
        return errors.DiskFullError(
            f"no room on the disk for the ledger {path}",
            cure="Free some space, then repeat: nothing acknowledged was lost, and nothing is sent unrecorded.",
        )
    if _FOREIGN_VERSION in text:
        return errors.LedgerTooNewError(
            f"the ledger {path} was written by a newer DuckDB",
            cure="Upgrade with `pip install -U duckdb ipyconvexai`, or use another file.",
        )
    if isinstance(error, _WRONG_SQL):
        return errors.QueryError(text.strip(), cure="")
    if "read-only mode" in text and isinstance(error, duckdb.TransactionException):
        return errors.QueryError("this is for reading only", cure="Write a SELECT.")
    if any(sign in text for sign in _DAMAGED):
        return errors.LedgerCorruptError(
            f"the ledger {path} is damaged: {text.splitlines()[0]}",
            cure="It was left as it is. Move it away (with its .wal) to begin a new one, and keep it for a rescue.",
        )
    if any(sign in text for sign in _NOT_WRITABLE):
        return errors.LedgerReadOnlyError(
            f"the ledger {path} cannot be written: {text.splitlines()[0]}",
            cure='Mend its permissions or choose another file: ai.connect("my.duckdb") or IPYCONVEXAI_DB.',
        )
    return errors.StoreError(f"{type(error).__name__}: {text}")
