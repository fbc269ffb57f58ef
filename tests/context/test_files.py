"""A file's bytes as what goes along with a message."""

from __future__ import annotations

import base64
import io
import json

import pypdf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipyconvexai.attachments import tokens_of
from ipyconvexai.context.files import LARGEST, TOKENS, attach_file, media_type_of
from ipyconvexai.errors import InputError

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
CSV = b"bridge,length\nGolden Gate,2737\nTower,244\n"


def pdf(*pages: str, password: str | None = None) -> bytes:
    """A PDF with a line of text on each page; of "" a page without any."""
    writer = pypdf.PdfWriter()
    font = pypdf.generic.DictionaryObject(
        {
            pypdf.generic.NameObject("/Type"): pypdf.generic.NameObject("/Font"),
            pypdf.generic.NameObject("/Subtype"): pypdf.generic.NameObject("/Type1"),
            pypdf.generic.NameObject("/BaseFont"): pypdf.generic.NameObject("/Helvetica"),
        }
    )
    for text in pages:
        page = writer.add_blank_page(300, 200)
        content = pypdf.generic.DecodedStreamObject()
        content.set_data(f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode() if text else b"")
        fonts = pypdf.generic.DictionaryObject({pypdf.generic.NameObject("/F1"): font})
        page[pypdf.generic.NameObject("/Resources")] = pypdf.generic.DictionaryObject(
            {pypdf.generic.NameObject("/Font"): fonts}
        )
        page[pypdf.generic.NameObject("/Contents")] = writer._add_object(content)
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("Grüße 橋".encode(), "Grüße 橋"),
        ("Grüße".encode("utf-8-sig"), "Grüße"),
        ("Grüße 橋".encode("utf-16"), "Grüße 橋"),
        ("Viele Grüße aus Köln".encode("latin-1"), "Viele Grüße aus Köln"),
        (b"print('hi')\r\n", "print('hi')\n"),
    ],
)
def test_text_in_its_encodings(data: bytes, text: str):
    made = attach_file("a.txt", data)
    assert (made.kind, made.name, made.text) == ("file", "a.txt", text)


def test_what_steers_a_terminal_or_is_a_key_is_taken_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_API_KEY", "sk-very-secret-0123456789")
    from ipyconvexai.settings import remember_secret

    remember_secret("sk-very-secret-0123456789")
    assert attach_file(".env", b"A=\x1b[31msk-very-secret-0123456789").text == "A=***"


def test_a_long_text_is_cut_in_the_middle_and_says_so():
    made = attach_file("a.log", b"first\n" + b"line\n" * 100_000 + b"last\n")
    assert made.text.startswith("first\n")
    assert made.text.endswith("last\n")
    assert "of 500,011 characters are left out here" in made.text
    assert tokens_of(made.text) <= TOKENS + 40


@pytest.mark.parametrize(
    ("name", "data"),
    [("b.csv", CSV), ("B.CSV", CSV), ("b.tsv", CSV.replace(b",", b"\t")), ("b.csv", CSV.replace(b",", b";"))],
)
def test_a_table_is_described(name: str, data: bytes):
    made = attach_file(name, data)
    assert made.kind == "frame"
    assert "2 rows × 2 columns" in made.text
    assert "- length: int64; min 244, mean 1490.5, max 2737" in made.text
    assert "Golden Gate,2737" in made.text


def test_what_is_no_table_goes_as_text():
    assert attach_file("b.csv", b"a,b\n1\n1,2,3\n").kind == "file"


def test_parquet_is_described():
    import pyarrow as pa
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pa.table({"length": [1, 2]}), out)
    assert "2 rows × 1 columns" in attach_file("b.parquet", out.getvalue()).text
    with pytest.raises(InputError, match="damaged Parquet"):
        attach_file("b.parquet", out.getvalue()[:40])


def test_a_notebook_is_its_cells():
    cells = [
        {"cell_type": "markdown", "source": ["# Bridges\n", "and more"]},
        {"cell_type": "code", "source": "1 + 1", "outputs": [{"data": {"text/plain": ["2"]}}]},
        {"cell_type": "code", "source": "1/0", "outputs": [{"output_type": "error", "traceback": ["Zero", "Error"]}]},
    ]
    text = attach_file("a.ipynb", json.dumps({"cells": cells}).encode()).text
    assert text.startswith("# Bridges\nand more\n\n```python\n1 + 1\n```\n\n```\n2\n```")
    assert text.endswith("```\nZero\nError\n```")
    assert attach_file("a.ipynb", b'{"cells": 3}').text == '{"cells": 3}'


def test_a_pdf_is_the_text_of_its_pages():
    made = attach_file("a.pdf", pdf("The bridge", "", "is long"))
    assert (made.kind, made.text) == ("file", "3 pages.\n\n[page 1]\nThe bridge\n\n[page 3]\nis long")


def test_of_a_long_pdf_the_first_pages_go():
    text = attach_file("a.pdf", pdf(*["word " * 200] * 60)).text
    assert "[page 1]" in text
    assert "to 60 are left out here" in text
    assert tokens_of(text) < TOKENS + 400


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (pdf("secret", password="geheim"), "is encrypted"),
        (pdf("", ""), "a PDF of 2 pages without text"),
        (b"%PDF-1.7 and nothing", "cannot be read"),
        (pdf("x")[:300], "cannot be read"),
        (b"", "is empty"),
        (b"\x7fELF\x02\x01\x01\x00" * 9, "is no text"),
        (b"PK\x03\x04" + bytes(range(256)), "is no text"),
        (b"x" * (LARGEST + 1), "is too large"),
    ],
)
def test_what_cannot_be_read_says_why_and_what_to_do(data: bytes, why: str):
    with pytest.raises(InputError, match=why) as caught:
        attach_file("a\n<b>.bin", data)
    assert caught.value.message.startswith("a <b>.bin ")
    assert caught.value.cure


def test_pictures_are_known_by_their_bytes():
    made = attach_file("a.txt", PNG)
    assert (made.kind, made.media_type, base64.b64decode(made.data)) == ("image", "image/png", PNG)
    assert media_type_of(b"<svg xmlns='http://www.w3.org/2000/svg'/>") is None


names = st.sampled_from(["a.txt", "a.csv", "a.ipynb", "a.pdf", "a.parquet"]) | st.text(max_size=20)
beginnings = st.sampled_from(
    [b"", b"a,b\n", b'{"cells": [', b"%PDF-1.7\n", b"PAR1", b"\xff\xfe", pdf("x")[:-40], PNG[:9]]
)


@given(
    names, beginnings, st.binary(max_size=400) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "ignore"))
)
def test_any_bytes_are_read_or_refused(name: str, beginning: bytes, rest: bytes):
    data = beginning + rest
    try:
        made = attach_file(name, data)
    except InputError:
        return
    assert made.text.strip() or made.data
