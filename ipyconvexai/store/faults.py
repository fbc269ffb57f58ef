"""Translates DuckDB's errors into ours, once, at the border. Calls duckdb and ``errors``."""

from __future__ import annotations

import os
import re

import duckdb

from ipyconvexai import errors

__all__ = ["concerns_file", "is_damage", "is_fatal", "is_lock_conflict", "translate", "translate_opening"]

_HOLDER = re.compile(r"held in (?P<program>.*?) \(PID (?P<pid>\d+)\)")
_NO_ROOM = ("No space left on device", "File too large", "Disk quota exceeded", "Could not write all bytes")
_DAMAGED = ("not a valid DuckDB database file", "orrupt", "checksum")
_FOREIGN_VERSION = re.compile(r"Trying to read a database file with (?:storage )?version number")
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
    duckdb.NotImplementedException,
    duckdb.ConstraintException,
)
_WHOLE = (
    errors.LedgerLockedError,
    errors.LedgerCorruptError,
    errors.LedgerReadOnlyError,
    errors.LedgerTooNewError,
    errors.DiskFullError,
)


def is_lock_conflict(error: BaseException) -> bool:
    return isinstance(error, duckdb.IOException) and "Could not set lock" in str(error)


def is_fatal(error: BaseException) -> bool:
    """Whether DuckDB has given the open database up: close it and open it again."""
    return isinstance(error, duckdb.FatalException) or "database has been invalidated" in str(error)


def concerns_file(error: errors.Error) -> bool:
    """Whether the whole file is in trouble, and not only what was asked."""
    return isinstance(error, _WHOLE)


def is_damage(error: BaseException, path: str) -> bool:
    """Whether DuckDB says by it that the file is damaged."""
    return isinstance(error, duckdb.Error) and isinstance(translate(error, path), errors.LedgerCorruptError)


def translate_opening(error: BaseException, path: str) -> errors.Error:
    """As ``translate``, for what was raised by opening: damage shows itself under many names there."""
    translated = translate(error, path)
    if os.path.isdir(path):
        return errors.LedgerReadOnlyError(
            f"{path} is a folder and no ledger", cure=f"Name a file in it: {os.path.join(path, 'ledger.duckdb')}"
        )
    if "different configuration" in str(error):
        return errors.LedgerLockedError(f"the ledger {path} is open in this process already", cure="Close it there.")
    ours = isinstance(error, errors.Error | duckdb.OutOfMemoryException)
    if ours or type(translated) not in (errors.StoreError, errors.QueryError, errors.LedgerCorruptError):
        return translated
    if not _is_foreign(path):
        return _damaged(str(error), path)
    return errors.LedgerCorruptError(
        f"{path} is no DuckDB file, or its beginning is damaged",
        cure='It was left as it is. Choose another file for the ledger: ai.connect("my.duckdb") or IPYCONVEXAI_DB.',
    )


def _damaged(text: str, path: str) -> errors.Error:
    return errors.LedgerCorruptError(
        f"the ledger {path} is damaged: {text.splitlines()[0]}",
        cure="It was left as it is. Move it away (with its .wal) to begin a new one, and keep it for a rescue.",
    )


def _is_foreign(path: str) -> bool:
    """Whether the file begins as no DuckDB file does. Only where DuckDB has not opened it: this drops its lock."""
    try:
        with open(path, "rb") as file:
            return file.read(12)[8:] != b"DUCK"
    except (OSError, ValueError):
        return False


def translate(error: BaseException, path: str) -> errors.Error:
    """The error of our tree for what DuckDB raised on the file `path`; one of our own passes unchanged."""
    if isinstance(error, errors.Error):
        return error
    text = str(error)
    if isinstance(error, _WRONG_SQL):  # first: the message may quote anything
        return errors.QueryError(text.strip(), cure="Mend the SQL; `DESCRIBE calls` shows what there is to select.")
    if isinstance(error, duckdb.InterruptException):
        return errors.QueryError("the query was interrupted", cure="Run it again; with a LIMIT it takes less long.")
    if is_lock_conflict(error):
        holder = _HOLDER.search(text)
        who = f"{holder['program']} (PID {holder['pid']})" if holder else "another program"
        return errors.LedgerLockedError(
            f"the ledger {path} is open in {who}",
            cure="Close it there, then repeat: nothing was sent.",
        )
    if any(sign in text for sign in _NO_ROOM):
        return errors.DiskFullError(
            f"no room on the disk for the ledger {path}",
            cure="Free some space, then repeat: nothing acknowledged was lost, and nothing is sent unrecorded.",
        )
    if _FOREIGN_VERSION.search(text):
        return errors.LedgerTooNewError(
            f"the ledger {path} was written by a newer DuckDB",
            cure="Upgrade with `pip install -U duckdb ipyconvexai`, or use another file.",
        )
    if "read-only mode" in text and isinstance(error, duckdb.TransactionException):
        return errors.QueryError("this is for reading only", cure="Write a SELECT.")
    if any(sign in text for sign in _DAMAGED):
        return _damaged(text, path)
    if any(sign in text for sign in _NOT_WRITABLE):
        return errors.LedgerReadOnlyError(
            f"the ledger {path} cannot be written: {text.splitlines()[0]}",
            cure='Mend its permissions or choose another file: ai.connect("my.duckdb") or IPYCONVEXAI_DB.',
        )
    return errors.StoreError(
        f"{type(error).__name__}: {text}",
        cure=f"Try again. If it stays, look at the ledger {path} with the DuckDB command line, or use another file.",
    )
