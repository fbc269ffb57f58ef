"""What becomes of an answer in each format: what is shown, what viewers without it read, what the next cell holds."""

from __future__ import annotations

import html
import json
import re
import time
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from markdown_it import MarkdownIt

from ipyconvexai.errors import CallError, InvalidAnswerError
from ipyconvexai.notebook import formats
from ipyconvexai.notebook.options import FORMATS
from ipyconvexai.notebook.session import Session
from ipyconvexai.testing import Fault
from tests.judging import PAYLOADS, harmful
from tests.magics.conftest import Run, Scripted

PERMISSIVE = MarkdownIt("js-default", {"html": True, "linkify": False})


class Shell:
    """The two methods of IPython's shell that a format uses."""

    def __init__(self) -> None:
        self.next = ""

    def set_next_input(self, code: str, replace: bool) -> None:
        assert not replace
        self.next = code

    def find_cell_magic(self, name: str) -> Any:
        return object() if name in ("bash", "html") else None


def result(name: str, text: str, shell: Shell | None = None) -> formats.Result:
    return formats.of(name).result(text, "row", Session(shell or Shell()))


def shown(name: str, text: str, note: str = "") -> dict[str, Any]:
    return result(name, text).bundle(note)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_there_and_has_plain_text(name: str) -> None:
    assert formats.of(name).name == name
    assert result(name, '{"a": 1}').bundle("note")["text/plain"]
    assert formats.of(name).bundle("half an ans", "cut")["text/plain"].startswith("half an ans")


def test_markdown_and_text() -> None:
    bundle = shown("markdown", "**a** <b>\x1b[0m", "note")
    assert bundle == {"text/markdown": "**a** &lt;b>\n\n*note*", "text/plain": "**a** <b>"}
    assert shown("text", "**a** <b>\x1b[0m", "note") == {"text/plain": "**a** <b>\n\n[note]"}


# ----------------------------------------------------------------------------------------------------- code
@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("x = 1", "x = 1"),
        ("Here:\n```python\nx = 1\n```\nand\n```py\ny = 2\n```\nBye.", "x = 1\n\ny = 2"),
        ("```\nx = 1\n```", "x = 1"),
        ("1. So:\n   ```python\n   if x:\n       y\n   ```", "if x:\n    y"),
        ("```python\nx = 1", "x = 1"),
        ("````markdown\n```\nx\n```\n````", "```\nx\n```"),
        ("~~~python\nx = '''\n```\n'''\n~~~", "x = '''\n```\n'''"),
        ("First:\n```bash\npip install x\n```\nthen\n```python\nimport x\n```", "import x"),
        ("```bash\nls\n```\n```python\n```", "%%bash\nls"),
        ("```{.html}\n<b>\n```", "%%html\n<b>"),
        ("```js\nx\n```", "x"),
        ("```rust\nfn main() {}\n```", "fn main() {}"),
        ("```python\nadmin = True\u202e  # \u2066no\n```", "admin = True  # no"),
    ],
)
def test_the_fenced_code_alone_goes_into_the_next_cell(text: str, cell: str) -> None:
    shell = Shell()
    made = result("code", text, shell)
    assert shell.next == cell
    assert made.said == "in the next cell"
    assert made.bundle("")["text/plain"] == re.sub(r"^%%\w+\n", "", cell)


def test_code_is_shown_as_source_of_its_language() -> None:
    assert shown("code", "So:\n```bash\nls <x>\n```")["text/markdown"] == "```bash\nls <x>\n```"
    assert shown("code", "x")["text/markdown"] == "```python\nx\n```"


def test_a_shell_s_own_magics_are_asked_for(run: Run, shell: InteractiveShell, endpoint: Scripted) -> None:
    endpoint.scripted["count"] = "```sh\nwc -l x\n```"
    assert run("%%ai -f code\ncount") is None
    assert shell.rl_next_input == "%%sh\nwc -l x"


# ----------------------------------------------------------------------------------------------------- JSON
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Sure:\n```json\n{"a": 1}\n```\nBye.', {"a": 1}),
        ("```python\nx\n```\n```json\n[1]\n```", [1]),
        ('As in [1], the value is {"a": {"b": [2, 3]}}; see {this}.', {"a": {"b": [2, 3]}}),
        ('{"a": "```"}', {"a": "```"}),
        ("\ufeff 5 ", 5),
        ("null", None),
        ('{"a": 1, "a": 2}', {"a": 2}),
        ('{"a": 123456789012345678901234567890}', {"a": 123456789012345678901234567890}),
        ("[" * 90 + "]" * 90, json.loads("[" * 90 + "]" * 90)),
    ],
)
def test_json_is_found(text: str, value: Any) -> None:
    assert formats.json_of(text, None) == value
    assert json.loads(shown("json", text)["text/plain"]) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "sorry", "NaN", '{"a": NaN}', "[-Infinity]", "1e999", "9" * 5000, "{'a': 1}", "```json\n{\n```"),
        *("[" * 200 + "]" * 200, "[" * 100_000, '{"a":' * 50_000, "[1," * 50_000),
        *('{"a": {"b": 1}, "c": "and', '{"a": NaN, "b": {"c": 1}}', '[{"a": 1}, {"b": oops}]'),
    ],
)
def test_what_is_no_json_names_its_row(text: str) -> None:
    with pytest.raises(InvalidAnswerError) as caught:
        result("json", text)
    assert caught.value.request_id == "row"
    assert len(caught.value.message) < 200


def test_json_is_a_tree_where_a_browser_can_show_it_truly() -> None:
    bundle = shown("json", '{"b": [1, "ü <b>"], "a": null}', "note")
    assert bundle["application/json"] == {"b": [1, "ü <b>"], "a": None}
    assert bundle["text/plain"] == '{\n  "b": [\n    1,\n    "ü <b>"\n  ],\n  "a": null\n}'
    assert bundle["text/markdown"] == f"```json\n{bundle['text/plain']}\n```\n\n*note*"
    for text in ("5", '"a"', "null", "[9007199254740993]"):
        assert "application/json" not in shown("json", text)
        assert not result("json", text).apart
    assert result("json", '{"a": 1}').apart, "a tree shows no words"
    assert "'a' occurs twice" in result("json", '{"a": 1, "a": 2}').said


def test_hostile_strings_in_json_can_be_shown_and_sent() -> None:
    made = result("json", '{"a": "\\ud800\\u202e\\u2028"}')
    assert made.value == {"a": "\ud800\u202e\u2028"}
    json.dumps(made.bundle(""), ensure_ascii=False).encode()
    assert made.bundle("")["application/json"] == {"a": "\ufffd\n"}


# ----------------------------------------------------------------------------------------------------- math
@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("E = mc^2", ["E = mc^2"]),
        ("x", ["x"]),
        ("$$x$$", ["x"]),
        ("$x$", ["x"]),
        ("The area \\(A\\) is \\[\\pi r^2\\] where $r$ is", ["\\pi r^2"]),
        ("so $a$ and \\(b\\)", ["b", "a"]),
        ("```latex\n$$\nx\n$$\n```\nwhere $y$", ["x"]),
        ("```math\nx\n```", ["x"]),
        ("As\n\\begin{align*}a&=b\\end{align*}\nshows", ["\\begin{align*}a&=b\\end{align*}"]),
        ("$$\\begin{align}a\\end{align}$$", ["\\begin{align}a\\end{align}"]),
        ("a \\\\[2pt] b", ["a \\\\[2pt] b"]),
        ("It costs $5 and $10 there", []),
        ("I do not know that.", []),
    ],
)
def test_formulas_are_found(text: str, formulas: list[str]) -> None:
    assert formats.tex_of(text) == formulas


def test_a_formula_is_drawn_and_what_is_none_is_text() -> None:
    assert shown("math", "$$x$$") == {"text/latex": "$\\displaystyle x$", "text/plain": "x"}
    assert result("math", "$$x$$").apart, "within the formula words are none"
    assert shown("math", "I do not know.") == {"text/markdown": "I do not know.", "text/plain": "I do not know."}
    assert shown("math", "$$\\frac{1$$") == {"text/markdown": "```latex\n\\frac{1\n```", "text/plain": "\\frac{1"}


# ----------------------------------------------------------------------------------------------------- HTML
def test_html_is_cleaned_and_has_a_text() -> None:
    bundle = shown("html", "Sure!\n```html\n<h1>A</h1><img src=x onerror=alert(1)><p>b &lt; c</p>\n```", "<i>")
    assert bundle["text/html"].startswith('<div class="mathjax_ignore tex2jax_ignore"><h1>A</h1><p>b &lt; c</p>')
    assert bundle["text/html"].endswith("<p><em>&lt;i&gt;</em></p></div>")
    assert bundle["text/plain"] == "A\n\nb < c"
    growing = formats.of("html").bundle("```html\n<img onerror=x", "")
    assert growing["text/markdown"] == "```html\n<img onerror=x\n```"


# ------------------------------------------------------------------------------------------------- payloads
def drawn(bundle: dict[str, Any]) -> str:
    """As a viewer that allows everything draws it. A tree of JSON and text/plain are text to all of them."""
    markdown: str = PERMISSIVE.render(bundle.get("text/markdown") or bundle.get("text/latex", ""))
    return str(bundle.get("text/html", "")) + markdown


def in_an_error(error: CallError) -> str:
    """As front ends draw an error: text, in which ANSI sequences become colours and addresses links."""
    lines = html.escape("\n".join(error._render_traceback_()), quote=False)
    coloured = re.sub(r"\x1b\[([0-9;]*)m(.*?)(?=\x1b\[|\Z)", r'<span class="\1">\2</span>', lines, flags=re.DOTALL)
    return re.sub(r"\b(https?://[^\s<>\"]+)", r'<a href="\1">\1</a>', coloured)


def test_an_error_that_a_provider_sends_is_text(
    run: Run, endpoint: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, payload in enumerate(PAYLOADS[::500]):
        endpoint.scripted[f"q{number}"] = Fault(400, message=f"\x1b[2J{payload}")
        error = run(f"%%ai\nq{number}")
        assert isinstance(error, CallError)
        assert harmful(in_an_error(error)) == []
        assert "\x1b" not in "".join(capsys.readouterr())


def test_a_session_needs_no_kernel_for_what_is_pure() -> None:
    """`code` alone touches the shell."""
    for name in set(FORMATS) - {"code"}:
        formats.of(name).result("{}", None, Session(SimpleNamespace()))


def test_fences() -> None:
    text = "a\n```Python\n1\n```\n> ~~~ {.r}\n> 2\n> ~~~\n```\n3"
    assert formats.fences(text) == [("python", "1", True), ("r", "2", True), ("", "3", False)]


@pytest.mark.parametrize(
    "text", ["```a\n" * 20_000, "~" * 50_000 + "`", "```" + " " * 50_000 + "`", " " * 50_000 + "``", "> " * 50_000]
)
def test_hostile_fences_take_no_time(text: str) -> None:
    start = time.process_time()
    formats.fences(text)
    assert time.process_time() - start < 2, "0.02 s are enough"


@pytest.mark.parametrize("option", ["", "-f json", "--no-stream", "-t 0 -s Brief", "--schema 'a int'", "-f math"])
def test_a_dry_run_shows_what_would_be_sent(
    run: Run, shell: InteractiveShell, endpoint: Scripted, page: Any, option: str
) -> None:
    endpoint.reply('{"a": 1}')
    assert run(f"%%ai --no-history --dry-run -o body {option}\nHello") is None
    shown = page.last["text/plain"]
    assert endpoint.count == 0
    assert run(f"%%ai --no-history {option}\nHello") is None
    body = endpoint.calls[0].body
    assert shell.user_ns["body"] == body
    parameters = json.loads(formats.fences(shown)[-1].text)
    assert parameters == {name: value for name, value in body.items() if name != "messages"}
    assert [block.text for block in formats.fences(shown)[:-1]] == [said["content"] for said in body["messages"]]
