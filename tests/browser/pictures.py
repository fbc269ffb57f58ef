"""The README's pictures, taken anew in JupyterLab: `make pictures`. They go to notebooks/images.

Not a test: what they show is tested beside this. The provider is a double, so that nothing is asked for them.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # started as a file, not with -m
    sys.path.insert(0, str(ROOT))

from ipyconvexai.testing import Answer  # noqa: E402 - they are found only now
from tests.browser.conftest import FLAGS, Scripted, environment, find_chromium  # noqa: E402
from tests.browser.lab import PATIENCE, Notebook, Server  # noqa: E402
from tests.browser.talking import answers, panel, say  # noqa: E402

FOLDER = ROOT / "notebooks" / "images"
LARGEST = 100_000  # bytes of a picture
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}

QUESTION = "How do I tell whether the two groups differ?"
ANSWER = """Compare their means with **Welch's test**, which asks for no equal variances:

$$t = \\frac{\\bar{x}_1 - \\bar{x}_2}{\\sqrt{s_1^2/n_1 + s_2^2/n_2}}$$

```python
from scipy.stats import ttest_ind

t, p = ttest_ind(first, second, equal_var=False)
```

| p | read it as |
|---|---|
| below 0.01 | they differ |
| 0.01 to 0.1 | collect more |
| above 0.1 | no sign of it |
"""
CHAT = "ai.chat('Two groups')"
BATCH = "papers = ai.summarize(frame, 'abstract', concurrency=8)"
FRAME = """
import pandas as pd
frame = pd.DataFrame({"abstract": [f"Abstract {n}: " + "what was found, and how. " * 40 for n in range(400)]})
"""
ASKED = """
for model, times in (("gpt-4o", 6), ("gpt-4o-mini", 40), ("gpt-4.1", 9), ("gpt-4.1-nano", 60)):
    for n in range(times):
        ai.generate(f"{model} {n}: " + "why? " * (n % 7 * 20 + 30), model=f"openai:{model}")
"""


def main() -> int:
    chromium = find_chromium()
    if chromium is None:
        print("There is no Chromium that starts (Debian: apt-get install chromium).", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        endpoint = Scripted()
        endpoint.start()
        server = Server(Path(folder) / "lab", environment(endpoint.url))
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            context = browser.new_context(viewport={"width": 1100, "height": 1000}, device_scale_factor=1.5)
            context.set_default_timeout(PATIENCE * 1000)
            cells = ["import ipyconvexai as ai", CHAT, BATCH, "%load_ext ipyconvexai\n%ai usage --by model"]
            book = Notebook(context.new_page(), server, server.write("pictures", cells))
            book.page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
            book.run(0)
            take_chat(book, endpoint)
            take_batch(book, endpoint)
            book.silently(ASKED)
            book.run(3)
            take(book.cell(3), "usage")
        finally:
            browser.close()
            server.close()
            endpoint.close()
    return 0


def take_chat(book: Notebook, endpoint: Scripted) -> None:
    endpoint.scripted |= {
        QUESTION: Answer(ANSWER),
        "And for three?": Answer("Then use a *one-way* analysis of variance."),
    }
    book.run(1)
    chat = panel(book, 1)
    for number, question in enumerate((QUESTION, "And for three?")):
        say(chat, question)
        expect(answers(chat).nth(number)).to_contain_text("tokens")
    for name, theme in THEMES.items():
        change_theme(book.page, theme)
        take(chat, f"chat-{name}")
    change_theme(book.page, THEMES["light"])


def take_batch(book: Notebook, endpoint: Scripted) -> None:
    endpoint.scripted["Document:"] = Answer("A short summary.", delay=0.1)
    book.silently(FRAME)
    book.begin(2)
    book.wait_for_text(2, "of 400 rows")
    endpoint.wait(lambda double: double.count > 150, timeout=PATIENCE)
    book.page.wait_for_timeout(600)  # it is drawn every quarter of a second
    take(book.cell(2), "batch")
    book.interrupt(2)


def change_theme(page: Page, theme: str) -> None:
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
    page.wait_for_function("light => document.body.dataset.jpThemeLight === light", arg=str("Light" in theme).lower())
    page.wait_for_timeout(500)  # its styles come a moment later


def take(area: Locator, name: str) -> None:
    """A picture of it, in 256 colours."""
    area.scroll_into_view_if_needed()
    picture = Image.open(io.BytesIO(area.screenshot())).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    path = FOLDER / f"{name}.png"
    picture.save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path.relative_to(ROOT)}: {picture.width} x {picture.height}, {size / 1000:.0f} kB")
    if size > LARGEST:
        raise RuntimeError(f"{path.name} is larger than {LARGEST / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
