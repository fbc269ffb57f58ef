"""Watches a page for anything that a hostile text did: it ran, fetched, or is there as an element that could.

Chromium resolves no name but loopback's in these tests, so that a fetch that is seen here has reached nobody.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Dialog, Page, Request, WebError

MARK = "hostile text ran: "
# In every frame of the page, before any script of it: what payloads call tells, and does nothing else.
_ALARMS = """
for (const name of ["alert", "confirm", "prompt", "print", "open"]) {
  const tell = (...given) => console.warn("%s" + name + "(" + given.map(String).join() + ") in " + location.href);
  Object.defineProperty(window, name, {value: tell, writable: true, configurable: true});
}
""".replace("%s", MARK)
# Elements that run, fetch or cover something, attributes that run, and links that lead to neither a page nor a mail.
_LOOK = r"""() => {
  const found = [];
  // JupyterLab makes links of whatever looks like an address or a file in plain text, that of errors, too.
  const own = node => node.matches(".jp-RenderedText a");
  const bad = "script, iframe, frame, frameset, object, embed, applet, link, meta, base, style, form, input, button, "
    + "textarea, select, img, image, video, audio, source, track, portal, marquee, animate, set, foreignObject, "
    + "dialog, [srcdoc], [src], [background], [poster], [formaction], [action]";
  for (const area of document.querySelectorAll("#tried .jp-OutputArea-output")) {
    for (const node of area.querySelectorAll(bad)) found.push(node.outerHTML.slice(0, 200));
    for (const node of area.querySelectorAll("*")) {
      for (const {name, value} of node.attributes) {
        if (/^on/i.test(name) || /^(xlink:)?href$/i.test(name) && !/^(https?:\/\/|mailto:|#)/i.test(value)
            || name === "style" && /url|expression|position/i.test(value) && !node.matches("mjx-container"))
          if (!(own(node) && /^href$/i.test(name) && !/^\s*(javascript|vbscript):/i.test(value)))
            found.push(`${name}=${value}`.slice(0, 200));
      }
    }
  }
  for (const node of document.querySelectorAll("script")) {
    const address = node.src && new URL(node.src);
    const isKnown = !window.knownScripts || window.knownScripts.has(node);
    if (!address) { if (node.text.trim() && !isKnown) found.push("<script> " + node.text); }
    else if (address.origin !== location.origin || !/^\/(lab\/)?(static|extensions)\//.test(address.pathname))
      found.push("<script src=" + node.src);
  }
  return found;
}"""
# What the texts began may still be on its way.
_SETTLE = "() => new Promise(done => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 200))"
_REMEMBER = "() => { window.knownScripts = new Set(document.querySelectorAll('script')); }"


class Guard:
    """Made before the page is opened, so that it sees every request and every message.

    Args:
        origin: where JupyterLab is, as ``http://127.0.0.1:8888``.

    Attributes:
        ran: alarms, dialogs, uncaught errors of scripts, and what the console says of blocked or broken ones.
        fetched: addresses of requests that are not JupyterLab's own.
    """

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.ran: list[str] = []
        self.fetched: list[str] = []
        own = r"api/|lab/(api|static|extensions)/|static/|custom/|kernelspecs/|lsp/|lab/tree/[^?]+\?reset$|notebooks/"
        self._own = re.compile(f"{re.escape(origin)}/({own})")
        context.add_init_script(_ALARMS)
        context.on("request", self._requested)
        context.on("console", self._said)
        context.on("dialog", self._asked)
        self._static = re.compile(rf"{re.escape(origin)}/(lab/)?(static|extensions)/")
        context.on("weberror", self._broke)
        context.on("page", lambda page: page.on("popup", lambda other: self.ran.append(f"a window: {other.url}")))

    def begin(self, page: Page) -> None:
        """JupyterLab is loaded: its own scripts are known from here on."""
        self.ran.clear()
        self.fetched.clear()
        page.evaluate(_REMEMBER)

    def elements(self, page: Page) -> list[str]:
        """What is in the outputs now and should not be."""
        found: list[str] = page.evaluate(_LOOK)
        return found

    def findings(self, page: Page) -> dict[str, Any]:
        """All of it; empty when nothing happened."""
        page.evaluate(_SETTLE)
        seen = {"ran": self.ran, "fetched": self.fetched, "elements": self.elements(page)}
        return {kind: found for kind, found in seen.items() if found}

    def _requested(self, request: Request) -> None:
        if urlsplit(request.url).scheme not in ("data", "blob") and not self._own.match(request.url):
            self.fetched.append(request.url)

    def _asked(self, dialog: Dialog) -> None:
        self.ran.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    # What JupyterLab's own scripts complain of (a notebook before was closed while its kernel spoke, say) is no text
    # that ran; a text's own script is in the page, and has the page's address. Fetches are seen as requests.
    def _broke(self, error: WebError) -> None:
        addresses = re.findall(r"https?://[^\s)]+", getattr(error.error, "stack", None) or "")
        if not addresses or not all(self._static.match(address) for address in addresses):
            self.ran.append(f"an uncaught error: {error.error}")

    def _said(self, message: ConsoleMessage) -> None:
        own = self._static.match(message.location["url"]) or message.text.startswith("Failed to load resource")
        if message.text.startswith(MARK) or (message.type == "error" and not own):
            self.ran.append(f"console: {message.text[:300]}")
