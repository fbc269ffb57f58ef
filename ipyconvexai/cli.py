"""The command line: ``ipyconvexai demo | doctor | fetch-model | export | version``. The only door to click.

Promises: an error of ours is one block on standard error and exit code 1, never a traceback.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import click

from ipyconvexai import __version__
from ipyconvexai.errors import Error

__all__ = ["main"]


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Error as error:
            return _fail(error.message, error.cure)
        except OSError as error:
            return _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))


def _fail(message: str, cure: str = "") -> NoReturn:
    from ipyconvexai import render

    click.echo(render.error_text(message, cure), err=True)
    raise SystemExit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Durable calls of language models: every request and every answer is a row in a file of yours."""


@main.command()
@click.option("--lab", is_flag=True, help="Open the notebook in JupyterLab instead.")
@click.option("--keep/--fresh", default=True, help="Keep the ledger between runs (the default), or use one in memory.")
def demo(*, lab: bool, keep: bool) -> None:
    """Execute notebooks/01_quickstart.ipynb and show what happens.

    Where no provider's key is set and no other model is chosen, the small local model is fetched first (93 MB, once).
    """
    from ipyconvexai import demo as the_demo
    from ipyconvexai.providers.choice import needs_bundled
    from ipyconvexai.settings import Settings

    notebook = the_demo.find_notebook()
    if needs_bundled(Settings.from_environment()):
        _fetch()
    if lab:
        raise SystemExit(the_demo.open_lab(notebook))
    the_demo.run(notebook, fresh=not keep, say=click.echo)


@main.command()
def doctor() -> None:
    """Tell which model would be used and why, which keys are set, where the ledger is and what is in it."""
    from ipyconvexai import api
    from ipyconvexai.application import app

    path = app().settings.path
    if path == ":memory:" or Path(path).exists():
        click.echo(api.doctor())
        return
    from ipyconvexai.providers.choice import doctor_report  # looking makes no ledger

    click.echo(f"{doctor_report(app().settings)}\nledger state: not there yet; the first call makes it")


@main.command("fetch-model")
def fetch_model() -> None:
    """Install the small local model's weights (93 MB, once, checked by sha256)."""
    _fetch()


def _fetch() -> None:
    from ipyconvexai.providers.weights import fetch

    fetch()


@main.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--sql", "query", help="What to export; default: all calls.")
def export(path: Path, query: str | None) -> None:
    """Write the ledger's calls to PATH, a .parquet or .csv file."""
    from ipyconvexai.application import app

    ledger = app().ledger
    written = ledger.export(path) if query is None else ledger.export(path, query)
    click.echo(f"Written: {written}")


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(f"ipyconvexai {__version__}")
