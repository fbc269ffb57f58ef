"""The options of ``%ai`` and ``%%ai``. A parser of its own: IPython's ends in a raw ValueError at an apostrophe.

Pure but for IPython's UsageError. Promises: any line gives options or a UsageError of one line.
"""

from __future__ import annotations

import difflib
import json
import keyword
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from IPython.core.error import UsageError

from ipyconvexai.notebook.words import closing

__all__ = ["FLAGS", "FORMATS", "OPTIONS", "Options", "cell_options", "line_options", "variable_name"]

FORMATS = ("markdown", "text", "json", "code", "html", "math", "image")
_OURS = {"model", "messages", "stream", "stream_options"}
_NO_PARAMETERS = set("api_key api_base api_key_name base_url openai_api_key default_headers extra_headers".split())
# What jupyter-ai has for SageMaker's endpoints, which do not speak OpenAI's language.
_SAGEMAKER = ("-n", "--region-name", "-q", "--request-schema", "-p", "--response-path")


@dataclass(frozen=True, slots=True)
class Options:
    """What the line said; `params` go to the provider as they are.

    Attributes:
        models: ask these side by side; else empty.
        schema: the name of a class, or ``name, age int``.
        budget: US dollars that the cell may cost.
        save, prompts: the name to keep the question under; those of kept prompts to begin with.
        history: whether the exchanges of late go along.
        evaluate: run the cell as Python, and ask what it gives.
    """

    model: str | None = None
    models: tuple[str, ...] = ()
    system: str | None = None
    conversation: str | None = None
    output: str | None = None
    format: str = "markdown"
    schema: str | None = None
    replay: str | None = None
    budget: float | None = None
    dry_run: bool = False
    save: str | None = None
    prompts: tuple[str, ...] = ()
    history: bool = True
    evaluate: bool = False
    stream: bool = True
    api_base: str | None = None
    api_key_name: str | None = None
    params: dict[str, Any] = field(default_factory=dict)


def cell_options(line: str) -> Options:
    """The options of ``%%ai [MODEL] [options]``."""
    options, rest = _leading(line)
    while rest.text:
        word = rest.word()
        if options.model is not None:
            raise UsageError(f"%%ai takes one model, and {word!r} is another word. The question goes below the line.")
        options = replace(options, model=word)
        options, rest = _leading(rest.text, options)
    return options


def line_options(line: str) -> tuple[Options, str]:
    """The options that begin ``%ai [options] QUESTION``, and the question."""
    options, rest = _leading(line)
    return options, rest.text


class _Line:
    """A line that is read word by word."""

    def __init__(self, text: str) -> None:
        self.text = text.strip()

    def word(self) -> str:
        """The next word, or what stands between quotation marks; an apostrophe without its pair is a letter."""
        quote = self.text[:1]
        if quote in ("'", '"') and (end := closing(self.text)):
            word, self.text = self.text[1:end].replace(f"\\{quote}", quote), self.text[end + 1 :].strip()
            return word
        word = self.text.split(maxsplit=1)[0] if self.text else ""
        self.text = self.text[len(word) :].strip()
        return word

    def json(self) -> Any:
        """The next value as JSON, in quotation marks or bare."""
        if self.text[:1] == "{":
            value, end = json.JSONDecoder().raw_decode(self.text)
            self.text = self.text[end:].strip()
            return value
        return json.loads(self.word())


def _leading(line: str, options: Options | None = None) -> tuple[Options, _Line]:
    """The options at the beginning; ``--`` ends them."""
    options, rest = options or Options(), _Line(line)
    while _is_option(rest.text):
        name = rest.word()
        if name == "--":
            break
        name, equals, value = name.partition("=") if name.startswith("--") else (name, "", "")
        if equals:
            rest.text = f"{value} {rest.text}".strip()
        options = _apply(options, name, rest)
    return options, rest


def _is_option(text: str) -> bool:
    """A number, a dash alone and a list item begin a question."""
    return len(text) > 1 and text[0] == "-" and (text[1].isalpha() or text[1] == "-")


def _apply(options: Options, name: str, rest: _Line) -> Options:
    if name in FLAGS:
        return replace(options, **FLAGS[name])
    if name in _SAGEMAKER:
        raise UsageError(
            f"{name} is for SageMaker, whose endpoints do not speak OpenAI's language; use another provider."
        )
    if name not in OPTIONS:
        raise UsageError(f"unknown option {name}.{_nearest(name)} `%ai help` lists them.")
    if not rest.text:
        raise UsageError(f"{name} wants a value.")
    return OPTIONS[name](options, name, rest)


_Take = Callable[[Options, str, _Line], Options]


def _text(attribute: str) -> _Take:
    def take(options: Options, name: str, rest: _Line) -> Options:
        word = rest.word()
        if not word.strip():
            raise UsageError(f"{name} wants a value.")
        return replace(options, **{attribute: word})  # type: ignore[arg-type] # each of them is a text

    return take


def _number(parameter: str, kind: type[float] | type[int]) -> _Take:
    def take(options: Options, name: str, rest: _Line) -> Options:
        word = rest.word()
        try:
            return replace(options, params={**options.params, parameter: kind(word)})
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise UsageError(f"{name} wants {what}, not {word!r}.") from None

    return take


def _one_of(attribute: str, allowed: tuple[str, ...]) -> _Take:
    def take(options: Options, name: str, rest: _Line) -> Options:
        word = rest.word()
        word = _SHORT.get(word.lower(), word.lower())
        if word in allowed:
            return replace(options, **{attribute: word})  # type: ignore[arg-type] # each of them is a text
        raise UsageError(f"{name} is one of {', '.join(allowed)}; not {word!r}.")

    return take


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, [*OPTIONS, *FLAGS], 1, 0.6)
    return f" Did you mean {near[0]}?" if near else ""


def _models(options: Options, name: str, rest: _Line) -> Options:
    names = tuple(dict.fromkeys(part.strip() for part in rest.word().split(",") if part.strip()))
    if len(names) < 2:
        raise UsageError(f"{name} wants two models or more, as {name} openai,anthropic.")
    return replace(options, models=names)


def _budget(options: Options, name: str, rest: _Line) -> Options:
    word = rest.word()
    try:
        amount = float(word.removeprefix("$"))
    except ValueError:
        amount = math.nan
    if not 0 < amount < math.inf:
        raise UsageError(f"{name} wants US dollars, for example {name} 0.05, not {word!r}.")
    return replace(options, budget=amount)


def _prompt(options: Options, name: str, rest: _Line) -> Options:
    return replace(options, prompts=(*options.prompts, rest.word()))


def _parameters(options: Options, name: str, rest: _Line) -> Options:
    try:
        value = rest.json()
    except (ValueError, RecursionError) as error:
        raise UsageError(f'{name} wants JSON, for example {name} {{"top_p": 0.9}}: {error}') from None
    if not isinstance(value, dict):
        raise UsageError(f'{name} wants a JSON object, for example {name} {{"top_p": 0.9}}.')
    if taken := _OURS.intersection(value):
        raise UsageError(f"{name} cannot set {', '.join(sorted(taken))}: the line and the cell say that.")
    if taken := _NO_PARAMETERS.intersection(value):  # what stands in the body is recorded, and a notebook is shared
        raise UsageError(
            f"{name} cannot set {', '.join(sorted(taken))}: use --api-base URL and --api-key-name VARIABLE, and "
            "clear a key from the cell."
        )
    return replace(options, params={**options.params, **value})


def _key_name(options: Options, name: str, rest: _Line) -> Options:
    from ipyconvexai.notebook.aliases import key_variable

    return replace(options, api_key_name=key_variable(rest.word()))


def _output(options: Options, name: str, rest: _Line) -> Options:
    return replace(options, output=variable_name(rest.word(), name))


# IPython's own, without which the next cell fails.
_TAKEN = frozenset("In Out Err get_ipython exit quit open".split())


def variable_name(word: str, option: str = "-o") -> str:
    """`word`, if a result may be kept under it.

    Raises:
        UsageError: it is no name of a variable, or one that the shell itself needs.
    """
    if not word.isidentifier() or keyword.iskeyword(word) or word in _TAKEN or word.startswith("__"):
        raise UsageError(f"{option} wants the name of a variable of yours, not {word!r}.")
    return word


_SHORT = {"md": "markdown", "on": "reuse"}

OPTIONS: dict[str, _Take] = {
    "--model": _text("model"),
    "--models": _models,
    "-s": _text("system"),
    "--system": _text("system"),
    "-t": _number("temperature", float),
    "--temperature": _number("temperature", float),
    "--max-tokens": _number("max_tokens", int),
    "-m": _parameters,
    "--model-parameters": _parameters,
    "-c": _text("conversation"),
    "--conversation": _text("conversation"),
    "-o": _output,
    "--output": _output,
    "-f": _one_of("format", FORMATS),
    "--format": _one_of("format", FORMATS),
    "--schema": _text("schema"),
    "--replay": _one_of("replay", ("off", "reuse", "only")),
    "--budget": _budget,
    "--save": _text("save"),
    "--with": _prompt,
    "--api-base": _text("api_base"),
    "--api-key-name": _key_name,
}
FLAGS: dict[str, dict[str, Any]] = {
    "--dry-run": {"dry_run": True},
    "--fresh": {"replay": "off"},
    "--no-history": {"history": False},
    "--no-stream": {"stream": False},
    "--eval": {"evaluate": True},
}
