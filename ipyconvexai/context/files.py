"""A file's bytes as something that goes along with a message. Calls frames and the libraries that read formats.

The door to pypdf; that and pyarrow at first use. Promises: what a file is follows from its bytes first, then from its
name; nothing is written, run or fetched; what cannot be read is an error that says what can; what is left out of a
text is said in it.
"""

from __future__ import annotations

import base64
import codecs
import io
import json
import logging
import re
import time
from pathlib import PurePosixPath
from typing import Any

from ipyconvexai.attachments import BYTES_PER_TOKEN, Attachment, shortened
from ipyconvexai.context import frames
from ipyconvexai.errors import InputError
from ipyconvexai.render.plain import fenced, plain_text
from ipyconvexai.settings import redact

__all__ = ["LARGEST", "attach_file", "media_type_of"]

LARGEST = 8_000_000  # bytes; what a page says at once may have 10 MB in Jupyter
LARGEST_FRAME = 100_000_000  # bytes of a Parquet file that is read
BATCH = 256  # rows that are read at once
MOST_COLUMNS = 5000  # of CSV that is read as a frame; beyond it goes as text
PATIENCE = 10.0  # seconds for the pages of a PDF
TOKENS = 8000  # of a file's text
_READABLE = "Text, CSV, Parquet, notebooks, PDF, PNG, JPEG, GIF and WebP can be attached"

# Bytes at the beginning, by which viewers go, too. SVG is none of them: it can hold scripts.
_MAGIC = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
)
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# What no text has: controls but for tab, line ends, form feed and escape.
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")


def media_type_of(data: bytes) -> str | None:
    """The type of a picture that every viewer knows; None: it is none."""
    return next((kind for magic, kind in _MAGIC if magic.match(data)), None)


def attach_file(name: str, data: bytes) -> Attachment:
    """The file as a person has dropped it. Takes a while for large ones.

    Raises:
        InputError: it is too large, empty, encrypted, damaged, or no kind that can be read.
    """
    name = " ".join(plain_text(name).split())[-200:] or "file"
    if len(data) > LARGEST:
        cure = "Read it in a cell and attach the variable: @name."
        raise _refused(name, f"is too large ({len(data) / 1e6:.1f} MB of {LARGEST / 1e6:.0f})", cure)
    if (kind := media_type_of(data)) is not None:
        return Attachment("image", name, media_type=kind, data=base64.b64encode(data).decode("ascii"))
    if data.startswith(b"PAR1"):
        return Attachment("frame", name, _parquet(name, data))
    if data[:1024].lstrip().startswith(b"%PDF-"):
        return _file(name, _pdf(name, data))
    text = _text(name, data)
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in (".csv", ".tsv") and (described := _table(text)):
        return Attachment("frame", name, described)
    if suffix == ".ipynb" and (cells := _notebook(text)):
        return _file(name, cells)
    return _file(name, text)


def _refused(name: str, why: str, cure: str) -> InputError:
    return InputError(f"{name} {why}, and is not attached", cure=cure)


def _file(name: str, text: str) -> Attachment:
    clean = plain_text(text)
    if not clean.strip():
        raise _refused(name, "is empty", "Choose another.")
    return Attachment("file", name, shortened(redact(clean), TOKENS))


# -------------------------------------------------------------------------------------------------------- text
def _text(name: str, data: bytes) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return data.decode(encoding)
            except UnicodeDecodeError:
                break
    if not _CONTROLS.search(data):
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            if _looks_latin(data):
                return data.decode("cp1252", "replace")
    raise _refused(name, "is no text and of no kind that can be read", f"{_READABLE}; export it as one of these.")


def _looks_latin(data: bytes) -> bool:
    """Words of a language with some accents: of all letters, few are beyond ASCII."""
    beyond = sum(byte > 127 for byte in data)
    return beyond <= len(data) // 4


# ------------------------------------------------------------------------------------------------------ frames
def _table(text: str) -> str | None:
    """Schema, statistics and a sample; None: it is no table, so it goes as text."""
    import pyarrow as pa
    from pyarrow import csv

    head = text.lstrip().partition("\n")[0]
    separator = max(",;\t", key=head.count)  # what its first line has most of
    if head.count(separator) >= MOST_COLUMNS:
        return None
    try:
        table = csv.read_csv(
            io.BytesIO(text.encode()),
            parse_options=csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        )
    except pa.ArrowException:
        return None
    return plain_text(frames.describe(table)) if table.num_columns else None


def _parquet(name: str, data: bytes) -> str:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        batches, size = [], 0
        for batch in file.iter_batches(BATCH):  # a small file may unfold to any size
            size += batch.nbytes
            if size > LARGEST_FRAME:
                why = f"is too large as a frame (above {LARGEST_FRAME / 1e6:.0f} MB)"
                raise _refused(name, why, "Read it in a cell and attach the variable: @name.")
            batches.append(batch)
        return plain_text(frames.describe(pa.Table.from_batches(batches, file.schema_arrow)))
    except (pa.ArrowException, OSError):
        raise _refused(name, "is a damaged Parquet file", "Write it anew, or attach it as CSV.") from None


# --------------------------------------------------------------------------------------------------- notebooks
def _notebook(text: str) -> str | None:
    """Its cells as markdown, with what they said; None: it is no notebook."""
    try:
        cells = json.loads(text)["cells"]
        return "\n\n".join(part for cell in cells for part in _parts(cell) if part.strip())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _parts(cell: dict[str, Any]) -> list[str]:
    source = _joined(cell.get("source"))
    if cell.get("cell_type") != "code":
        return [source]
    said = [_said(output) for output in cell.get("outputs", [])]
    return [fenced(source, "python"), *(fenced(text) for text in said if text.strip())]


def _said(output: dict[str, Any]) -> str:
    if output.get("output_type") == "error":
        return _joined(output.get("traceback"), "\n")
    return _joined(output.get("text")) or _joined(output.get("data", {}).get("text/plain"))


def _joined(lines: Any, between: str = "") -> str:
    return between.join(map(str, lines)) if isinstance(lines, list) else str(lines or "")


# --------------------------------------------------------------------------------------------------------- PDF
def _pdf(name: str, data: bytes) -> str:
    """The text of its pages, as many as go along."""
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # what it mends is nobody's business
    encrypted = False
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        encrypted = reader.is_encrypted
        if encrypted and not reader.decrypt(""):
            raise ValueError("it wants a password")
        return _pages(name, reader)
    except InputError:
        raise
    except Exception:  # of damaged files pypdf raises anything
        if encrypted:
            cure = "Save it without a password, or copy the text that is meant."
            raise _refused(name, "is encrypted", cure) from None
        raise _refused(name, "is a PDF that cannot be read", "Save it anew, or attach its text.") from None


def _pages(name: str, reader: Any) -> str:
    count, room, texts = len(reader.pages), TOKENS * BYTES_PER_TOKEN, list[str]()
    ends = time.monotonic() + PATIENCE
    for number, page in enumerate(reader.pages, 1):
        if text := page.extract_text().strip():
            texts.append(f"[page {number}]\n{text}")
            room -= len(texts[-1].encode("utf-8", "replace"))
        if (room < 0 or time.monotonic() > ends) and number < count:
            texts.append(f"… pages {number + 1:,} to {count:,} are left out here …")
            break
    if not texts:
        cure = "Its pages are pictures: attach them as PNG, where the model takes pictures, or read them with an OCR."
        raise _refused(name, f"is a PDF of {_counted(count)} without text", cure)
    return "\n\n".join([f"{_counted(count)}.", *texts])


def _counted(pages: int) -> str:
    return f"{pages:,} page{'s' if pages != 1 else ''}"
