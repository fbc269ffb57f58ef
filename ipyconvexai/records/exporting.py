"""Rows of the ledger into files: Parquet, CSV, JSON lines. Calls the ledger, ``finetuning`` and ``relation``.

Promises: a file is there whole or not at all; one that exists is replaced only where that is said; no column is
left out for what it holds.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipyconvexai.errors import InputError
from ipyconvexai.records.finetuning import Examples

__all__ = ["Written", "checked", "write"]

KINDS = (".parquet", ".csv", ".jsonl")
ROWS_AT_A_TIME = 1000


@dataclass(frozen=True, slots=True)
class Written:
    """What an export wrote.

    Attributes:
        path: the file.
        rows: rows, or examples for fine-tuning.
        examples: whether its lines are examples for fine-tuning.
        duplicates: calls left out because the same question has a newer answer in the file.
        unusable: calls left out because they hold no content, or none that a model can be tuned with.
    """

    path: Path
    rows: int
    examples: bool = False
    duplicates: int = 0
    unusable: int = 0


def checked(path: str | os.PathLike[str], ledger: str, overwrite: bool) -> Path:
    """The path to write to; ``~`` is the home folder.

    Raises:
        InputError: no file can be written there, or one is there already.
    """
    target = Path(path).expanduser()
    if target.suffix.lower() not in KINDS:
        raise InputError(
            f"{target.name}: unknown kind of file", cure="Use a name that ends in .parquet, .csv or .jsonl."
        )
    if not target.parent.is_dir():
        raise InputError(f"there is no folder {target.parent}", cure="Make it, or name another.")
    if target.is_dir():
        raise InputError(f"{target} is a folder", cure="Name a file in it.")
    if os.path.realpath(target) == os.path.realpath(ledger):
        raise InputError(f"{target} is the ledger itself", cure="Use another name.")
    if target.exists() and not overwrite:
        raise _exists(target)
    return target


def _exists(target: Path) -> InputError:
    return InputError(
        f"{target} exists already", cure="Use another name, or replace it: overwrite=True, in a magic --force."
    )


def write(table: Any, target: Path, overwrite: bool, *, examples: bool = False) -> Written:
    """Write the Arrow `table` to `target`; `examples`: its calls as examples for fine-tuning.

    Raises:
        InputError: it cannot be written; then no file is there, or the old one.
    """
    if len(set(table.column_names)) != table.num_columns:
        raise InputError("two columns have the same name", cure="Give each a name of its own: SELECT a AS first, ...")
    with _new_file(target, overwrite) as part:
        if examples:
            made = Examples(_rows(table))
            rows = _write_lines(part, made)
            return Written(target, rows, True, made.duplicates, made.unusable)
        _WRITERS[target.suffix.lower()](table, part)
    return Written(target, int(table.num_rows))


@contextlib.contextmanager
def _new_file(target: Path, overwrite: bool) -> Iterator[Path]:
    real = Path(os.path.realpath(target))  # a link stays one
    part = real.with_name(f".{real.name}.{secrets.token_hex(4)}.part")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # as private as the ledger
        yield part
        if real.exists():
            if not overwrite:
                raise _exists(target)
            shutil.copymode(real, part)
        os.replace(part, real)
    except OSError as error:
        raise InputError(
            f"{target} cannot be written: {error.strerror or error}", cure="Name another file, or make room."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


# ---------------------------------------------------------------------------------------------- kinds of files
def _write_parquet(table: Any, part: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        pyarrow.parquet.write_table(table, part)
    except pa.ArrowException as error:
        raise InputError(f"Parquet cannot hold this: {error}", cure="Cast the column, or export .jsonl.") from None


def _write_csv(table: Any, part: Path) -> None:
    import pyarrow as pa
    import pyarrow.csv

    columns = [_flat(column) for column in table.columns]
    pyarrow.csv.write_csv(pa.table(columns, names=table.column_names), part)


def _flat(column: Any) -> Any:
    """`column` as CSV can have it: what is made of parts becomes JSON, bytes become base64."""
    import pyarrow as pa

    kind, types = column.type, pa.types
    simple = (types.is_boolean, types.is_integer, types.is_floating, types.is_date, types.is_timestamp,
              types.is_decimal, types.is_null, types.is_string, types.is_large_string)  # fmt: skip
    if any(test(kind) for test in simple):
        return column
    nested = types.is_nested(kind)

    def text(value: Any) -> str | None:
        if value is None:
            return None
        plain = _plain(value)
        return json.dumps(plain, ensure_ascii=False) if nested or not isinstance(plain, str) else plain

    return pa.array([text(value) for value in column.to_pylist()], pa.string())


def _write_jsonl(table: Any, part: Path) -> None:
    _write_lines(part, ({name: _plain(value) for name, value in row.items()} for row in _rows(table)))


def _write_lines(part: Path, lines: Iterator[Any] | Examples) -> int:
    count = 0
    # One line each: JSON escapes line ends, and these two are line ends for some readers.
    with open(part, "w", encoding="utf-8", newline="\n") as file:
        for count, line in enumerate(lines, 1):  # noqa: B007 - counted
            text = json.dumps(line, ensure_ascii=False, allow_nan=False)
            text = text.encode("utf-8", "replace").decode().replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
            file.write(text + "\n")
    return count


_WRITERS: dict[str, Callable[[Any, Path], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
}


def _rows(table: Any) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=ROWS_AT_A_TIME):
        yield from batch.to_pylist()


def _plain(value: Any) -> Any:
    """`value` as JSON can have it; nothing is left out."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if type(value).__name__ == "MonthDayNano":  # an interval, as ISO 8601 has them
        return f"P{value.months}M{value.days}DT{value.nanoseconds / 1e9:.9g}S"
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
