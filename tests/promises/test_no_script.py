"""Nothing that a model, a document, an error or a title says runs in the notebook: public payloads at every door that
draws, judged by html5lib, which parses as browsers do. tests/browser has them in a real browser.

Markdown is drawn by viewers that allow everything; one takes formulas out first, as JupyterLab does.
"""

from __future__ import annotations

import html
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import html5lib
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipyconvexai import errors
from ipyconvexai.drawing.charts import Chart
from ipyconvexai.notebook import formats
from ipyconvexai.notebook.pictures import Picture
from ipyconvexai.notebook.sheets import Sheet
from ipyconvexai.providers.faults import broken_off
from ipyconvexai.render import (
    Blocks,
    clean_html,
    fenced,
    harden_markdown,
    latex_bundle,
    markdown_bundle,
    plain_text,
    safe_html,
    side_by_side,
    table_html,
)
from ipyconvexai.reply import Reply
from ipyconvexai.widgets.messages import Message
from ipyconvexai.widgets.results import shown, words_of
from ipyconvexai.widgets.rows import Row
from tests.judging import (
    HTML_ATTRIBUTES,
    HTML_TAGS,
    PAYLOADS,
    PERMISSIVE,
    harmful,
    hides_formulas,
    styles_of,
)
from tests.promises.promising import Figure, Tries
from tests.promises.tricky import FRAGMENTS, TRICKY

PROMISE = "what a model says cannot run in the notebook"
TRIES = Tries(120, 3_295, "payloads at each door")  # all there are

HARMLESS = "some words"
PAYLOAD_SEED = 7


def verdict(text: str) -> list[str]:
    hardened = harden_markdown(text)
    twice = harden_markdown(hardened)
    drawn = [PERMISSIVE.render(hardened), hides_formulas(hardened), PERMISSIVE.render(twice), safe_html(text)]
    return [finding for html in drawn for finding in harmful(html)]


# ---------------------------------------------------------------------------------------------- the doors
def drawn(bundle: Any) -> str:
    """As a viewer that allows everything draws it. A tree of JSON and text/plain are text to all of them."""
    markdown: str = PERMISSIVE.render(bundle.get("text/markdown") or bundle.get("text/latex", ""))
    return str(bundle.get("text/html", "")) + markdown


def in_an_error(error: errors.Error) -> str:
    """As front ends draw an error: text, in which ANSI sequences become colours and addresses links."""
    lines = html.escape("\n".join(error._render_traceback_()), quote=False)
    coloured = re.sub(r"\x1b\[([0-9;]*)m(.*?)(?=\x1b\[|\Z)", r'<span class="\1">\2</span>', lines, flags=re.DOTALL)
    return re.sub(r"\b(https?://[^\s<>\"]+)", r'<a href="\1">\1</a>', coloured)


def while_it_streams(text: str) -> str:
    """All that ever stood on the page, in one."""
    blocks, seen = Blocks(), []
    for end in [*range(3, len(text), 9), len(text)]:
        blocks.show(text[:end])
        seen.append("".join(blocks.html))
    return "<p></p>".join(seen)


def in_a_sheet(text: str) -> str:
    sheet = Sheet()
    sheet.title(text)
    sheet.say(text)
    sheet.facts([(text, text)])
    sheet.table([text, "b"], [[text, 1], [None, text]], caption=text)
    sheet.body(text, text, folded=True)
    sheet.changes(text, [f"+{text}", f"-{text}", f"@@ {text}"])
    return str(sheet._repr_html_())


ROW = Row("id", "assistant", "done", 1, None, None, "stop", "m", 1, 1, 0.1, 1.0, None)


def in_a_message(text: str) -> str:
    message = Message("id")
    message.take(ROW._replace(model=text, finish_reason=text, error_code=text, error_message=text), text, None)
    told = message.update(whole=True)
    return "".join(told["blocks"]) + str(PERMISSIVE.render(harden_markdown(message.said)))


def in_a_tool_card(text: str) -> str:
    """Its texts are told as texts; in a transcript it is markdown."""
    message = Message("id")
    call = json.dumps({"name": text, "arguments": json.dumps({text: text})})
    message.take(ROW._replace(role="tool", tool_call=call, error_message=text), text, None)
    told = message.update()
    assert not {"html", "blocks"} & set(told)
    return drawn(markdown_bundle(message.said, note=text))


def in_a_form(text: str) -> str:
    told = [shown(value).told for value in (text, [text], {text: text}, pd.DataFrame({text: [text]}))]
    assert "\x1b" not in words_of(errors.InputError(text, cure=text))
    return "".join("".join(one.get("blocks", ())) for one in told)


def as_a_picture(text: str) -> str:
    """A chart's HTML is one image with words beside it; a picture that was not fetched is markdown with its address."""
    image = html5lib.parseFragment(Chart(bytes(24), text).html, namespaceHTMLElements=False)
    assert [(each.tag, set(each.attrib)) for each in image] == [("img", {"src", "alt", "width", "height", "style"})]
    assert image[0].attrib["src"].startswith("data:image/png;base64,")
    bundle, _ = Picture(b"", "", text, None, text, text)._repr_mimebundle_()
    return drawn(bundle)


def in_a_format(name: str) -> Callable[[str], str]:
    def door(text: str) -> str:
        answer = json.dumps({text: text}) if name == "json" else text
        found = formats.of(name)
        return drawn(found.bundle(answer, text[:80])) if hasattr(found, "bundle") else ""

    return door


DOORS: dict[str, Callable[[str], str]] = {
    "markdown": lambda text: PERMISSIVE.render(harden_markdown(text)),
    "markdown without its formulas": lambda text: hides_formulas(harden_markdown(text)),
    "markdown, hardened twice": lambda text: PERMISSIVE.render(harden_markdown(harden_markdown(text))),
    "a note": lambda text: drawn(markdown_bundle("answer", note=text)),
    "a fence": lambda text: PERMISSIVE.render(harden_markdown(fenced(text, "python"))),
    "HTML of markdown": safe_html,
    "HTML of a model": clean_html,
    "blocks while they stream": while_it_streams,
    "a reply": lambda text: drawn(Reply(text, model=text, finish_reason=text)._repr_mimebundle_()),
    "columns": lambda text: drawn(side_by_side([(text, text, text), ("b", f"`{text}`", "")])),
    "a formula": lambda text: drawn(latex_bundle([text]) or {}),
    "a table": lambda text: table_html([text, "b"], [[text, 1], [text]], caption=text, more=3),
    "a sheet": in_a_sheet,
    "an error": lambda text: in_an_error(broken_off("openai", f"\x1b[31m{text}\x1b[0m", "row")),
    "an error of ours": lambda text: in_an_error(errors.InputError(text, cure=text)),
    "a message in a panel": in_a_message,
    "a tool's card": in_a_tool_card,
    "a form's result": in_a_form,
    "a picture": as_a_picture,
    **{f"-f {name}": in_a_format(name) for name in ("markdown", "html", "math", "code", "json")},
}
# Where a model's own HTML is drawn some more of it may stay.
WIDER = {"HTML of a model", "a sheet", "a form's result", "-f html", "a table", "columns"}


def survivors_at(name: str, payloads: list[str]) -> Iterator[str]:
    door = DOORS[name]
    tags, attributes = (HTML_TAGS, HTML_ATTRIBUTES) if name in WIDER else (None, None)
    kept = styles_of(door(HARMLESS))
    for payload in payloads:
        fragment = door(payload)
        found = harmful(fragment, tags, attributes, kept) if tags and attributes else harmful(fragment, styles=kept)
        if found:
            yield f"{name}: {payload!r}: {found}"


def test_the_judge_flags_what_is_not_hardened() -> None:
    """The control: the list, drawn raw, is harmful. Otherwise the tests below could not fail."""
    for kept in ((), (HTML_TAGS, HTML_ATTRIBUTES)):
        flagged = sum(bool(harmful(payload, *kept)) for payload in PAYLOADS)
        assert flagged >= 0.9 * len(PAYLOADS)


def test_every_door_shows_what_is_said() -> None:
    """The control: one that draws nothing would let nothing through."""
    assert [name for name, door in DOORS.items() if "words" not in door(HARMLESS)] == []


def test_no_public_payload_survives_the_hardening() -> None:
    assert list(survivors_at("markdown", PAYLOADS)) == []
    assert TRIES.long == len(PAYLOADS)


@TRIES.both
def test_no_payload_survives_at_any_door(tries: int, figure: Figure) -> None:
    survivors: list[str] = []
    met: set[str] = set()
    for number, name in enumerate(DOORS):  # every door meets another part of the list
        part = random.Random(PAYLOAD_SEED + number).sample(PAYLOADS, tries)
        survivors += survivors_at(name, part)
        met.update(part)
    assert survivors == [], f"{len(survivors)} survive; seed {PAYLOAD_SEED}"
    assert len(DOORS) >= 24
    figure(f"0 of {len(met):,} payloads survive, at {len(DOORS)} doors", f"{tries:,} {TRIES.of}")


FRAMES = [
    "- a\n  ```\n{}",
    " ```\n```\n{}\n```",
    "> ```\n{}",
    "1. a\n\n   ```html\n   {}\n   ```\n\n```html\n{}\n```",
    "`a` {} `b`",
    '[a]({} "t")\n\n[b]: {}',
    "$x {} y$",
    "$$\n```\n$$ {}\n```",
    "\\begin{{a}}\n```\n\\end{{a}} {}\n```",
    '[x](https://a.example/$" {} z="$)',
    "| a | b |\n|---|---|\n| `{}` | {} |",
    "    {}\n\n\t{}",
]


@TRIES.both
def test_no_payload_survives_in_a_frame(tries: int) -> None:
    survivors = [
        (frame, payload)
        for number, frame in enumerate(FRAMES)
        for payload in random.Random(number).sample(PAYLOADS, tries // 4)
        if verdict(frame.format(*[payload] * frame.count("{}")))
    ]
    assert survivors == []


def test_tricky_shapes_are_harmless() -> None:
    assert {name: found for name, text in TRICKY.items() if (found := verdict(text))} == {}
    for text in TRICKY.values():
        hardened = harden_markdown(text)
        assert plain_text(hardened) == hardened
        hardened.encode()  # what cannot be encoded cannot be sent to a browser


def test_every_beginning_of_a_stream_is_harmless() -> None:
    beginnings = [text[:end] for text in TRICKY.values() for end in range(1, len(text), 5)]
    assert [text for text in beginnings if harmful(hides_formulas(harden_markdown(text)))] == []


def test_nothing_in_an_error_steers_a_terminal() -> None:
    for payload in PAYLOADS:
        for line in broken_off("openai", f"\x1b]0;x\x07{payload}", "row")._render_traceback_():
            assert plain_text(line) == line


@TRIES.both
def test_whatever_is_written_is_harmless(tries: int) -> None:
    @settings(max_examples=tries, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=30).map("".join))
    def each(text: str) -> None:
        assert verdict(text) == []

    each()
