"""Which model is used where none is named, and why; lists of models; the doctor's report.

Calls ``access``, ``catalog``, ``probing`` and, at use, ``local``. Starts nothing; may ask a model server which models
it has, and then blocks: async code calls it in a thread. Promise: no report shows a key.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ipyconvexai.errors import ConfigurationError, LocalModelError, NoModelError
from ipyconvexai.providers.access import base_url_of, key_is_in, key_of, obstacle, without_credentials
from ipyconvexai.providers.catalog import (
    BUNDLED,
    BY_NAME,
    LOCAL,
    Provider,
    is_address,
    parse,
    provider_named,
    providers,
)
from ipyconvexai.providers.probing import Probe, first_chat_model, is_chat_model, models_url, prober
from ipyconvexai.settings import Settings, redact

__all__ = ["Choice", "ModelRow", "Reason", "choose", "doctor_report", "list_models", "needs_bundled", "usable_models"]

INSTALL_LOCAL = 'pip install "ipyconvexai[local]"  and then  ipyconvexai fetch-model'


class Reason(NamedTuple):
    """One step of the choice: what was looked at, whether that decided it, and what was found there."""

    looked_at: str
    found: bool
    what: str


@dataclass(frozen=True, eq=False)
class Choice:
    """The model that is used where none is named.

    Attributes:
        model: ``provider:model``; None: there is none, and `error` says what to do.
        reasons: the steps that led there, in order.
        error: what ``resolve(None)`` raises.
    """

    model: str | None
    reasons: tuple[Reason, ...]
    error: ConfigurationError | None = None

    def explain(self) -> str:
        lines = [f"  {'->' if step.found else '  '} {step.looked_at}: {step.what}" for step in self.reasons]
        return "\n".join([f"model: {self.model or 'none'}", *lines])


def choose(settings: Settings, environ: Mapping[str, str] = os.environ, probe: Probe | None = None) -> Choice:
    """Which model is used where none is named, and why: the setting, then the first provider whose key is set, then
    a running Ollama, then the local model if it is installed. Raises nothing of its own; starts nothing."""
    if settings.model:
        return _choice_of_setting(settings.model, environ)
    reasons = [Reason("setting", False, "neither IPYCONVEXAI_MODEL nor connect(model=...) is set")]
    for step, model in _candidates(environ, probe or prober):
        reasons.append(step)
        if model is not None:
            return Choice(model, tuple(reasons))
    return Choice(None, tuple(reasons), _no_model())


def needs_bundled(settings: Settings, environ: Mapping[str, str] = os.environ, probe: Probe | None = None) -> bool:
    """Whether the bundled local model is the one to use, or would be if it were installed: nothing else is there."""
    choice = choose(settings, environ, probe)
    return choice.model == f"{LOCAL}:{BUNDLED}" or isinstance(choice.error, NoModelError)


def _choice_of_setting(model: str, environ: Mapping[str, str]) -> Choice:
    try:
        provider, name = parse(model)
    except ConfigurationError as error:
        return Choice(None, (Reason("setting", False, f"{model!r}: {error.message}"),), error)
    chosen = f"{provider.name}:{name}" if name else provider.name
    missing = obstacle(provider, environ)
    what = f"IPYCONVEXAI_MODEL or connect(model=...) says {model}" + (f", but {missing.message}" if missing else "")
    return Choice(chosen, (Reason("setting", True, what),))


def _candidates(environ: Mapping[str, str], probe: Probe) -> Iterator[tuple[Reason, str | None]]:
    for provider in providers():
        if provider.needs_key:
            yield _consider_key(provider, environ)
    yield _consider_ollama(environ, probe)
    yield _consider_local()


def _consider_key(provider: Provider, environ: Mapping[str, str]) -> tuple[Reason, str | None]:
    variable = key_is_in(provider, environ)
    if variable is None:
        return Reason(provider.name, False, f"{' or '.join(provider.key_variables)} is not set"), None
    if missing := obstacle(provider, environ):
        return Reason(provider.name, False, f"{variable} is set, but {missing.message}"), None
    model = f"{provider.name}:{provider.default_model}" if provider.default_model else provider.name
    return Reason(provider.name, True, f"{variable} is set"), model


def _consider_ollama(environ: Mapping[str, str], probe: Probe) -> tuple[Reason, str | None]:
    provider = BY_NAME["ollama"]
    base_url = base_url_of(provider, environ)
    if not is_address(base_url):
        return Reason("ollama", False, "OLLAMA_HOST does not hold an address"), None
    where = without_credentials(base_url).removesuffix("/v1")
    names = probe(models_url(provider, base_url), None)
    if names is None:
        return Reason("ollama", False, f"nothing answers at {where}"), None
    name = first_chat_model(names)
    if name is None:
        return Reason("ollama", False, f"runs at {where} and has no chat model"), None
    return Reason("ollama", True, f"runs at {where} and has {name}"), f"ollama:{name}"


def _consider_local() -> tuple[Reason, str | None]:
    problem, state = _local_state()
    return Reason(LOCAL, not problem, problem or state), None if problem else f"{LOCAL}:{BUNDLED}"


def _local_state() -> tuple[str, str]:
    """What the bundled model lacks (empty: nothing), and what there is of it. Looks, and loads nothing."""
    import importlib.util

    from ipyconvexai.providers.local import find_weights

    try:
        weights = find_weights()
    except LocalModelError as error:
        return error.message, ""
    if importlib.util.find_spec("xllamacpp") is None:
        return "its weights are installed, but its runtime (xllamacpp) is not", ""
    return "", f"{weights.name} is installed ({weights.stat().st_size / 1e6:.0f} MB)"


def _no_model() -> NoModelError:
    keys = ", ".join(provider.key_variables[0] for provider in providers() if provider.needs_key)
    return NoModelError(
        "No model is named, and none was found.",
        cure=f"One of these will do:\n"
        f"- set the key of a provider before Jupyter starts, for example  export OPENAI_API_KEY=...  (known: {keys})\n"
        f"- start Ollama with a model:  ollama pull llama3.2\n"
        f"- install the local model:  {INSTALL_LOCAL}\n"
        f"ai.doctor() shows what was looked at.",
    )


# ------------------------------------------------------------------------------------------ lists and reports
class ModelRow(NamedTuple):
    """A line of ``%ai list``; the model is empty where a server does not run."""

    provider: str
    model: str
    note: str


def list_models(
    provider: str | None = None, *, environ: Mapping[str, str] = os.environ, probe: Probe | None = None
) -> list[ModelRow]:
    """Well-known models of one provider or of all; of a server, those it has. Other names can be used as well.

    Raises:
        UnknownProviderError: with the nearest names.
    """
    probe = probe or prober
    if provider is not None:
        return _rows(provider_named(provider), environ, probe)
    # Servers nobody spoke of are not asked: at these ports there is mostly something else.
    unasked = [name for name in ("vllm", "llamacpp") if not environ.get(BY_NAME[name].base_url_variable or "")]
    return [row for each in providers() if each.name not in unasked for row in _rows(each, environ, probe)]


def usable_models(environ: Mapping[str, str] = os.environ, probe: Probe | None = None) -> list[str]:
    """``provider:model`` of the well-known chat models that could be asked now: what they need is there."""
    unusable = {each.name for each in providers() if each.needs_key and key_is_in(each, environ) is None}
    if _local_state()[0]:
        unusable.add(LOCAL)
    rows = list_models(environ=environ, probe=probe)
    found = (row for row in rows if row.model and row.provider not in unusable and is_chat_model(row.model))
    return [f"{row.provider}:{row.model}" for row in found]


def _rows(provider: Provider, environ: Mapping[str, str], probe: Probe) -> list[ModelRow]:
    notes = [part for part in (_state(provider, environ), provider.note) if part]
    if provider.default_model:
        first = {provider.default_model: ["default"]}
        return [ModelRow(provider.name, name, "; ".join(first.get(name, []) + notes)) for name in provider.models]
    base_url = base_url_of(provider, environ)
    offered = probe(models_url(provider, base_url), key_of(provider, environ, None)) if is_address(base_url) else None
    if offered is None:
        return [ModelRow(provider.name, "", f"nothing answers at {without_credentials(base_url)}")]
    return [ModelRow(provider.name, name, "; ".join(notes)) for name in offered]


def _state(provider: Provider, environ: Mapping[str, str]) -> str:
    """Whether its key is set; empty for those that know no key."""
    if not provider.key_variables:
        return ""
    if variable := key_is_in(provider, environ):
        return f"{variable} is set"
    return f"{' or '.join(provider.key_variables)} is not set" + ("" if provider.needs_key else " (optional)")


def doctor_report(settings: Settings, environ: Mapping[str, str] = os.environ, *, probe: Probe | None = None) -> str:
    """Plain text for ``ai.doctor()``: the versions, the ledger's path, the choice and why, the providers' keys (set or
    not, never their values) and the state of the local model."""
    problem, state = _local_state()
    lines = [
        f"ipyconvexai {_version()}, Python {sys.version.split()[0]} on {sys.platform}",
        f"ledger: {settings.path}",
        f"kept: {settings.kept}",
        choose(settings, environ, probe).explain(),
        "providers:",
        *(f"  {each.name:<11}{_line(each, environ)}" for each in providers() if each.name != LOCAL),
        "local model: " + (f"{problem.rstrip('.')}. Install it:  {INSTALL_LOCAL}" if problem else state),
    ]
    return redact("\n".join(lines))


def _line(provider: Provider, environ: Mapping[str, str]) -> str:
    address = base_url_of(provider, environ)
    at = without_credentials(address) if is_address(address) else f"no address in {provider.base_url_variable}"
    return ", ".join(part for part in (at, _state(provider, environ)) if part)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ipyconvexai")
    except PackageNotFoundError:
        return "(not installed: run from its source)"
