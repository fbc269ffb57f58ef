"""What a command shows in several parts: facts, tables, long texts, differences. Calls render.

Promises: nothing that a part says becomes markup or a formula; long texts are folded in a front end and cut where they
would make a notebook huge, which is said; it reads in light and dark themes, and without colours.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

__all__ = ["Sheet"]

LONGEST = 100_000  # characters of one text
FOLDED_FROM = 4_000  # characters from which on a text is folded
LONGEST_FACT = 600
_PRE = "white-space:pre-wrap;overflow-wrap:anywhere;margin:0.3em 0"
# Translucent, so that they read on any background; the sign before a line says the same.
_ADDED, _REMOVED = "background-color:rgba(46,160,67,0.25)", "background-color:rgba(248,81,73,0.25)"


class Sheet:
    """Parts one below the other; draws itself as HTML, and as text for terminals."""

    def __init__(self) -> None:
        self._html: list[str] = []
        self._text: list[str] = []

    def title(self, words: str) -> None:
        """A heading over what follows."""
        words = _line(words)
        self._html.append(f'<p style="margin:0.8em 0 0.2em"><strong>{html.escape(words)}</strong></p>')
        self._text.append(f"\n{words}\n{'═' * min(len(words), 100)}")

    def say(self, words: str) -> None:
        """A sentence."""
        words = _line(words)
        self._html.append(f'<p style="margin:0.3em 0">{html.escape(words)}</p>')
        self._text.append(words)

    def facts(self, facts: Sequence[tuple[str, object]]) -> None:
        """Names and values; those that are None are left out."""
        from ipyconvexai import render

        rows = [(_line(name)[:100], _line(str(value))) for name, value in facts if value is not None and str(value)]
        if rows:
            self._html.append(render.table_html(["", ""], rows, max_cell=LONGEST_FACT))
            width = max(len(name) for name, _ in rows)
            self._text.append("\n".join(f"{name:<{width}}  {value[:LONGEST_FACT]}" for name, value in rows))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> None:
        from ipyconvexai import render

        self._html.append(render.table_html(columns, rows, caption=caption))
        self._text.append(render.table_text(columns, rows, caption=caption))

    def body(self, name: str, text: str, *, folded: bool | None = None, printed: bool = True) -> None:
        """A text of any length under its name.

        Args:
            folded: whether it opens on a click; None: where it is long.
            printed: whether a terminal, which cannot fold, shows it, too.
        """
        text = _cut(text)
        inner = f'<pre class="mathjax_ignore tex2jax_ignore" style="{_PRE}">{html.escape(text)}</pre>'
        self._under(name, inner, len(text) > FOLDED_FROM if folded is None else folded)
        if printed:
            self._text.append(f"{_line(name)}:\n" + "\n".join(f"    {line}" for line in text.split("\n")))

    def changes(self, name: str, lines: Sequence[str]) -> None:
        """Lines of a difference, each with its sign before it."""
        clean = _cut("\n".join(_plain(line).replace("\n", " ") for line in lines)).split("\n")
        drawn = "\n".join(_changed(line) for line in clean)
        self._under(name, f'<pre class="mathjax_ignore tex2jax_ignore" style="{_PRE}">{drawn}</pre>', folded=False)
        self._text.append(f"{_line(name)}:\n" + "\n".join(clean))

    def _under(self, name: str, inner: str, folded: bool) -> None:
        name = html.escape(_line(name))
        if folded:
            self._html.append(f'<details><summary style="cursor:pointer">{name}</summary>{inner}</details>')
        else:
            self._html.append(f'<p style="margin:0.6em 0 0"><em>{name}</em></p>{inner}')

    def _repr_html_(self) -> str:
        return f'<div class="mathjax_ignore tex2jax_ignore">{"".join(self._html)}</div>'

    def __repr__(self) -> str:
        return "\n".join(self._text).strip("\n")


def _changed(line: str) -> str:
    style = {"+": _ADDED, "-": _REMOVED}.get(line[:1])
    if line.startswith("@@"):
        return f'<span style="opacity:0.6">{html.escape(line)}</span>'
    return html.escape(line) if style is None else f'<span style="{style}">{html.escape(line)}</span>'


def _plain(text: str) -> str:
    from ipyconvexai import render

    return render.plain_text(text)


def _line(text: str) -> str:
    return " ".join(_plain(text[: 4 * LONGEST_FACT]).split())


def _cut(text: str) -> str:
    left = len(text) - LONGEST
    text = _plain(text[:LONGEST])
    return text if left <= 0 else f"{text}\n… {left:,} more characters"
