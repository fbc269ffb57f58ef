"""How a widget looks: JupyterLab's themes, and axe-core's verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page

AXE = Path(__file__).parents[1] / "data" / "axe.min.js"
THEMES = ("JupyterLab Light", "JupyterLab Dark")


def change_theme(page: Page, theme: str) -> None:
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
    page.wait_for_function("light => document.body.dataset.jpThemeLight === light", arg=str("Light" in theme).lower())


def violations(area: Locator) -> list[dict[str, Any]]:
    """What axe-core finds in it."""
    page = area.page
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    # JupyterLab's body has no height and hides what flows over: axe-core takes all for hidden, and no colour is seen.
    page.evaluate("() => { document.body.style.height = '100vh'; }")
    found = area.evaluate("async area => (await axe.run(area, {resultTypes: ['violations']})).violations")
    return [{"id": one["id"], "where": [node["html"][:200] for node in one["nodes"]]} for one in found]


def assert_accessible(area: Locator) -> None:
    """In both themes; the light one is left."""
    for theme in reversed(THEMES):
        change_theme(area.page, theme)
        found = violations(area)
        assert not found, f"{theme}: {json.dumps(found, indent=1)}"
