"""How all widgets look alike: the frame, colours and fonts, as CSS for elements of the class ``ai-widget``.

On the ground floor, as widgets of several rooms have them: it calls nothing.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["css"]


def css() -> str:
    return Path(__file__).with_name("theme.css").read_text("utf-8")
