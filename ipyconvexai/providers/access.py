"""A provider's address and key, from the environment. Calls ``catalog``, ``errors`` and ``settings``.

Promises: a key is only ever given with the provider it belongs to, and no message or report shows one.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

from ipyconvexai.errors import ConfigurationError, MissingKeyError
from ipyconvexai.providers.catalog import LOCAL, NO_ADDRESS, Provider, is_address
from ipyconvexai.settings import Secret

__all__ = ["OR_LOCAL", "base_url_of", "key_is_in", "key_of", "missing_key", "obstacle", "without_credentials"]

OR_LOCAL = "Or use model='local': a small model on this machine that needs no key."


def without_credentials(url: str) -> str:
    """What may be shown and stored of an address: no user, no password, no query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")).rstrip("/")


def base_url_of(provider: Provider, environ: Mapping[str, str]) -> str:
    """Where the provider is; empty if nothing says it, and no address if the variable holds none."""
    value = environ.get(provider.base_url_variable or "", "").strip()
    try:
        return provider.complete(value) if value else (provider.base_url or "")
    except ValueError:  # half an IPv6 address
        return NO_ADDRESS


def key_is_in(provider: Provider, environ: Mapping[str, str], override: str | None = None) -> str | None:
    """The name of the variable that holds the key."""
    names = (override,) if override else provider.key_variables
    return next((name for name in names if environ.get(name, "").strip()), None)


def key_of(provider: Provider, environ: Mapping[str, str], override: str | None) -> Secret | None:
    name = key_is_in(provider, environ, override)
    return Secret(environ[name].strip()) if name else None


def obstacle(
    provider: Provider, environ: Mapping[str, str], key_variable: str | None = None
) -> ConfigurationError | None:
    """What is missing before the provider can be used. It names variables and never shows what they hold: a key may
    have landed in the wrong one."""
    if missing := missing_key(provider, environ, key_variable):
        return missing
    address, variable = base_url_of(provider, environ), provider.base_url_variable
    if provider.name == LOCAL or is_address(address):
        return None
    what = f"{variable} does not hold an address" if address else f"{variable} is not set"
    return ConfigurationError(
        f"{provider.title} cannot be reached: {what}.",
        cure=f"Set it before Jupyter starts:  export {variable}=https://...\n{OR_LOCAL}",
        code="missing_base_url",
    )


def missing_key(provider: Provider, environ: Mapping[str, str], key_variable: str | None) -> MissingKeyError | None:
    if not (provider.needs_key or key_variable) or key_is_in(provider, environ, key_variable):
        return None
    variables = (key_variable,) if key_variable else provider.key_variables
    return MissingKeyError(
        f"{provider.title} needs a key, and {' or '.join(variables)} is not set.",
        cure=f"Set it before Jupyter starts:  export {variables[0]}=...\n"
        f"or in a cell, where it is not saved:  import os, getpass; os.environ[{variables[0]!r}] = getpass.getpass()\n"
        f"{OR_LOCAL}",
    )
