"""``%%ai -f image``: a picture from an image endpoint, into the cell and a variable. Calls the app, providers, render.

Promises: nothing is fetched from an address that an answer names; only bytes that are a PNG, JPEG, WebP or GIF are
shown, with the prompt as the text for those who do not see them; a call without a picture fails the cell; no file is
written but by ``Picture.save``.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipyconvexai.context.files import media_type_of
from ipyconvexai.errors import ConfigurationError, Error, InputError, InvalidAnswerError, ReplayMissError, draws_as
from ipyconvexai.notebook.asking import STOPPED, Waiting, from_a_magic, note_of
from ipyconvexai.notebook.options import Options
from ipyconvexai.notebook.screens import display, in_kernel
from ipyconvexai.notebook.session import Session
from ipyconvexai.values import Replay

if TYPE_CHECKING:
    from ipyconvexai.application import App
    from ipyconvexai.providers.endpoints import Endpoint
    from ipyconvexai.providers.images import Drawn, Images

__all__ = ["Picture", "draw"]

LARGEST = 30_000_000  # bytes of one picture: a notebook holds them as text
_LONGEST_ALT = 300  # characters

Shown = tuple[dict[str, Any], dict[str, Any]]  # MIME data, and metadata by MIME type


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that draws itself, and that ``save`` writes to a file.

    Attributes:
        data: its bytes; empty where the provider gave only its address.
        mime: "image/png", "image/jpeg", "image/webp" or "image/gif"; empty likewise.
        prompt: what was asked for.
        request_id: its row in the ledger.
        revised_prompt: the prompt as the provider rewrote it, where it says so.
        url: the address, where that is all that came. Nothing was fetched from there.
    """

    data: bytes = field(repr=False)
    mime: str
    prompt: str
    request_id: str | None = None
    revised_prompt: str | None = None
    url: str | None = None

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the bytes, as they are, to `path`, and return that; ``~`` is the home folder.

        The suffix decides nothing: ``mime`` says what it is.

        Args:
            overwrite: replace a file that is there.

        Raises:
            InputError: there is a file already, it cannot be written, or there are no bytes, only an address.
        """
        target = Path(path).expanduser()
        if not self.data:
            raise InputError(
                "the provider gave only the address of the picture, and nothing was fetched from there",
                cure="Open the address in a browser, which can save it: .url.",
            )
        try:
            with target.open("wb" if overwrite else "xb") as file:
                file.write(self.data)
        except FileExistsError:
            raise InputError(f"{target} exists already", cure="Name another, or replace it: overwrite=True.") from None
        except OSError as error:
            why = error.strerror or error
            raise InputError(
                f"{target} cannot be written: {why}", cure="Name a file in a folder that is there."
            ) from None
        return target

    def __repr__(self) -> str:
        kind = f"{self.mime}, {len(self.data):,} bytes" if self.data else f"at {_shown(self.url)}"
        return f"<Picture {kind}: {_shown(self.prompt)}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Shown:
        from ipyconvexai import render

        if not self.data:
            return dict(render.markdown_bundle(f"The picture is at {_address(self.url)} .")), {}
        words = _shown(self.revised_prompt or self.prompt)
        encoded = base64.b64encode(self.data).decode("ascii")
        return {self.mime: encoded, "text/plain": f"[picture: {words}]"}, {self.mime: {"alt": words}}


def draw(session: Session, options: Options, prompt: str) -> None:
    """Ask for a picture of `prompt` and show it.

    Raises:
        ConfigurationError: no model that draws is named, and the provider has no usual one; or no key is set.
        CallError: the call failed, or what came is no picture.
        KeyboardInterrupt: the kernel was interrupted; it draws itself in one line.
    """
    from ipyconvexai.application import app
    from ipyconvexai.reply import Reply

    easel, waiting, began = _Easel(session), Waiting(options.model), time.perf_counter()
    with from_a_magic(on_wait=waiting, budget=options.budget):
        try:
            images = app().run(_ask(app(), session, options, prompt), tick=lambda: easel.wait(waiting))
        except KeyboardInterrupt as interrupt:
            easel.leave("interrupted")
            draws_as(interrupt, STOPPED)
            raise
        except Error as error:
            easel.leave(error.code)
            if error.request_id:
                session.last_request, session.last_replayed = error.request_id, False
            raise
    session.last_request, session.last_replayed = images.request_id, images.replayed
    pictures = [_picture(one, prompt, images.request_id) for one in images.drawn]
    if options.output:
        session.shell.user_ns[options.output] = pictures[0] if len(pictures) == 1 else pictures
    reply = Reply(
        text="",
        usage=images.reading.usage,
        cost=images.cost,
        model=images.reading.model or images.model,
        request_id=images.request_id,
        replayed=images.replayed,
        duration=time.perf_counter() - began,
    )
    easel.show(pictures, note_of(reply), options.output)


# --------------------------------------------------------------------------------------------------- asking
async def _ask(app: App, session: Session, options: Options, prompt: str) -> Images:
    """Where its key is missing, a recorded answer may still stand for it."""
    from ipyconvexai.generation import plain_params
    from ipyconvexai.providers.corridor import CALLER
    from ipyconvexai.settings import parse_replay

    policy = app.settings.replay if options.replay is None else parse_replay(options.replay)
    params = plain_params(options.params)
    where = _where(app, session, options)
    endpoint = await app.generator.endpoint(*where, policy is Replay.OFF)
    CALLER.set(replace(CALLER.get(), replay=Replay.ONLY if endpoint.unready else policy))  # of this task alone
    try:
        return await _generate(app, endpoint, prompt, params)
    except ReplayMissError:
        if not endpoint.unready or policy is Replay.ONLY:
            raise
    endpoint = await app.generator.endpoint(*where)  # says what it lacks
    CALLER.set(replace(CALLER.get(), replay=policy))
    return await _generate(app, endpoint, prompt, params)


async def _generate(app: App, endpoint: Endpoint, prompt: str, params: dict[str, Any]) -> Images:
    from ipyconvexai.providers.images import generate_images, image_body

    body = image_body(endpoint, prompt, params)
    return await generate_images(app.generator.client(endpoint), endpoint, body, app.settings.timeout)


def _where(app: App, session: Session, options: Options) -> tuple[str, str | None, str | None]:
    """The model that draws, the address and the variable of the key. The model used for text draws nothing."""
    from ipyconvexai.providers.catalog import find, parse
    from ipyconvexai.providers.choice import choose
    from ipyconvexai.providers.images import DEFAULT_MODELS

    alias = session.model_of(options.model)
    at = options.api_base or alias.api_base, options.api_key_name or alias.api_key_name
    if options.model and alias.target and find(alias.target) is None:
        return alias.target, *at
    target = alias.target
    if not target:
        choice = choose(app.settings)
        if choice.error is not None:
            raise choice.error
        target = choice.model or ""
    provider = parse(target)[0]
    if at[0] is None and provider.name in DEFAULT_MODELS:
        return f"{provider.name}:{DEFAULT_MODELS[provider.name]}", *at
    usual = next(iter(DEFAULT_MODELS.items()))
    raise ConfigurationError(
        f"no model that draws is named, and {provider.title if at[0] is None else 'this address'} has no usual one",
        cure=f"Name one: %%ai {':'.join(usual)} -f image, or another provider's as provider:model. Nothing was sent.",
    )


# --------------------------------------------------------------------------------------------------- showing
def _picture(drawn: Drawn, prompt: str, request_id: str | None) -> Picture:
    if drawn.base64 is None:
        return Picture(b"", "", prompt, request_id, drawn.revised_prompt, drawn.url)
    why = f"is larger than {LARGEST:,} bytes"
    if len(drawn.base64) * 3 // 4 <= LARGEST:
        try:
            data = base64.b64decode(drawn.base64, validate=True)
        except (binascii.Error, ValueError):
            data = b""
        if (mime := media_type_of(data)) is not None:
            return Picture(data, mime, prompt, request_id, drawn.revised_prompt)
        why = "is no PNG, JPEG, WebP or GIF"
    raise InvalidAnswerError(
        f"the picture that came {why}, and is not shown",
        cure='Ask for another kind: -m \'{"output_format": "png"}\'. The answer is in the ledger under this request.',
        request_id=request_id,
    )


def _shown(text: str | None) -> str:
    """One line, not too long."""
    from ipyconvexai import render

    words = " ".join(render.plain_text(text or "").split())
    return words if len(words) <= _LONGEST_ALT else words[: _LONGEST_ALT - 1].rstrip() + "…"


def _address(url: str | None) -> str:
    """An address without a sign that would end it; front ends make a link of it, if it is none that runs."""
    return re.sub(r"[\s<>]", "", url or "")


_SUFFIXES = {"image/jpeg": "jpg"}


def _how_to_keep(pictures: list[Picture], name: str | None) -> str:
    kept, mime = name or "p", pictures[0].mime
    if not mime:
        return "its address is in .url" if name else "its address is above"
    suffix = _SUFFIXES.get(mime, mime.partition("/")[2])
    save = f'{kept}{"[0]" if len(pictures) > 1 else ""}.save("picture.{suffix}") writes a file'
    return save if name else f"the same with --replay reuse -o {kept} draws it again for nothing, then {save}"


class _Easel:
    """The outputs of a picture: a line while a limit makes it wait, then the pictures and a note."""

    def __init__(self, session: Session) -> None:
        self._in_kernel = in_kernel(session.shell)
        self._handle: Any = None
        self._noted = ""

    def wait(self, waiting: Waiting) -> None:
        note = waiting.limit or (waiting.silence if self._in_kernel else "")
        if note and note != self._noted:
            self._noted = note
            self._tell(note)

    def leave(self, why: str) -> None:
        """Nothing comes any more: a countdown does not stay."""
        if self._noted:
            self._tell(f"{why}: no picture")

    def _tell(self, note: str) -> None:
        from ipyconvexai import render

        self._put(dict(render.markdown_bundle("", note=note)) | {"text/plain": f"[{render.plain_text(note)}]"}, {})

    def show(self, pictures: list[Picture], note: str, name: str | None) -> None:
        """Draw them; a terminal draws none, so there a line says how to keep one, by the `name` of the variable."""
        for picture in pictures:
            self._put(*picture._repr_mimebundle_())
            self._handle = None
        self._tell(note if self._in_kernel else f"{note} · {_how_to_keep(pictures, name)}")

    def _put(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        """A new output, or the new content of the one that told of the wait."""
        if not self._in_kernel:
            print(data["text/plain"])
        elif self._handle is None:
            self._handle = display(data, metadata=metadata, raw=True, display_id=True)
        else:
            self._handle.update(data, metadata=metadata, raw=True)
