"""The chat panel in marimo, which has no IPython and a widget's messages of its own kind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from ipyconvexai.testing import Answer
from tests.browser.conftest import Scripted
from tests.browser.guard import MARK
from tests.browser.lab import KEY, PATIENCE, ROOT, free_port
from tests.browser.talking import TEXT, answers, own, say

NOTEBOOK = """
import marimo
app = marimo.App()

@app.cell
def _():
    import ipyconvexai as ai
    return (ai,)

@app.cell
def _(ai):
    chat = ai.chat("Bridges")
    chat
    return (chat,)

if __name__ == "__main__":
    app.run()
"""


@pytest.fixture
def address(endpoint: Scripted, tmp_path: Path) -> Iterator[str]:
    """Where marimo shows the notebook."""
    path = tmp_path / "tried.py"
    path.write_text(NOTEBOOK)
    log = tmp_path / "marimo.log"
    port = free_port()
    names = ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME")
    environment = (
        os.environ
        | dict.fromkeys(names, str(tmp_path))
        | {
            "OPENAI_BASE_URL": endpoint.url,
            "OPENAI_API_KEY": KEY,
            "IPYCONVEXAI_MODEL": "openai:gpt-4o-mini",
            "IPYCONVEXAI_DB": str(tmp_path / "ledger.duckdb"),
            "PYTHONPATH": str(ROOT),
        }
    )
    options = ["--headless", "--no-token", "--no-sandbox", "--no-check", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "marimo", "run", *options, str(path)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=tmp_path,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    ends = time.monotonic() + PATIENCE
    try:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=2):
                break
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < ends
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def test_it_is_there_answers_and_stops(browser: Browser, address: str, scripted: Scripted) -> None:
    scripted.scripted |= {"Show me": Answer(TEXT), "Long": Answer("word " * 400, token_delay=0.05)}
    with browser.new_context(viewport={"width": 1000, "height": 800}) as context:
        context.set_default_timeout(PATIENCE * 1000)
        page = context.new_page()
        said: list[str] = []
        fetched: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: fetched.append(request.url))
        page.goto(address)
        chat: Locator = page.locator("section.ai-chat")
        say(chat, "Show me")
        expect(answers(chat).get_by_role("heading", name="A title")).to_be_visible()
        expect(answers(chat).locator("table td")).to_have_text(["1", "2"])
        expect(answers(chat)).to_contain_text("tokens")
        say(chat, "Long")
        expect(answers(chat).last).to_contain_text("word word")
        before = scripted.disconnects
        chat.get_by_role("button", name="Stop").click()
        expect(answers(chat).last).to_contain_text("Stopped")
        scripted.wait(lambda double: double.disconnects > before, timeout=5)
        expect(own(chat)).to_have_text(["Show me", "Long"])
        assert not [text for text in said if text.startswith(MARK)]
        assert not [url for url in fetched if not url.startswith((address, "data:", "blob:"))]
        page.reload()
        expect(own(chat)).to_have_text(["Show me", "Long"])
