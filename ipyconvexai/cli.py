"""The command line, ``ipyconvexai --help``. The only door to click.

Promises: an error of ours is one block on standard error and exit code 1, never a traceback.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click

from ipyconvexai import __version__
from ipyconvexai.errors import Error, users_line

__all__ = ["main"]

_STEERING = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff]")  # JSON escapes the others itself


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
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def export(path: Path, query: str | None, force: bool) -> None:
    """Write the ledger's calls to PATH: .parquet, .csv, or .jsonl (examples for fine-tuning; rows with --sql)."""
    from ipyconvexai.application import app

    written = app().ledger.export(path, query, overwrite=force)
    click.echo(f"Written: {written}")


# ---------------------------------------------------------------------------------------------- functions
_DB = click.option("--db", type=click.Path(dir_okay=False), help="The ledger; default: IPYCONVEXAI_DB, or your own.")
_FILE = click.option(
    "--file", "source", type=click.Path(path_type=Path), help="Where functions are defined: a .py or .ipynb file."
)


@main.command()
@click.argument("name")
@click.argument("words", nargs=-1, metavar="[KEY=VALUE]...")
@_FILE
@_DB
@click.option("--json", "as_json", is_flag=True, help="Print the result, or the error, as JSON.")
def run(name: str, words: tuple[str, ...], source: Path | None, db: str | None, as_json: bool) -> None:
    """Run the public function NAME, built in or of --file, and print its result."""
    try:
        click.echo(_result_of(name, words, source, db, as_json))
    except Error as error:
        if not as_json:
            raise
        click.echo(_error_as_json(error), err=True)
        raise SystemExit(1) from None
    except Exception as error:  # of the function's own code
        _fail(f"{type(error).__name__}: {error}", cure=users_line(error.__traceback__))


def _result_of(name: str, words: tuple[str, ...], source: Path | None, db: str | None, as_json: bool) -> str:
    from ipyconvexai.drawing.results import text_of

    with _without_jobs():
        _define(source)
        from ipyconvexai.functions.outside import result_in, values_of

        function, values = values_of(name, words)
        with _opened(db) as app, _from_the_command_line():
            result = result_in(app, function, values)
        return _harmless(function.result.to_json(result)) if as_json else text_of(result)


@contextlib.contextmanager
def _without_jobs() -> Iterator[None]:
    """What is scheduled waits for a notebook or a worker: this process ends too soon for it."""
    from ipyconvexai.functions.service import Functions

    Functions.works_here = False
    try:
        yield
    finally:
        Functions.works_here = True


@contextlib.contextmanager
def _from_the_command_line() -> Iterator[None]:
    """Calls that are made in here are recorded as the command line's."""
    from ipyconvexai.providers.corridor import CALLER

    token = CALLER.set(replace(CALLER.get(), source="cli"))
    try:
        yield
    finally:
        CALLER.reset(token)


def _error_as_json(error: Error) -> str:
    import json

    from ipyconvexai.errors import ApplicationError

    told: dict[str, Any] = {"error": error.message, "code": error.code, "retryable": error.retryable}
    told |= {"retry_after": error.retry_after, "request_id": error.request_id}
    if isinstance(error, ApplicationError):
        told["data"] = error.data
    return _harmless(json.dumps(told, ensure_ascii=False, default=str))


def _harmless(text: str) -> str:
    """The same JSON; what would steer a terminal is escaped in it."""
    return _STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


@main.command()
@_FILE
def functions(source: Path | None) -> None:
    """List the functions that are built in or defined in --file, with their arguments."""
    from ipyconvexai import render

    with _without_jobs():
        _define(source)
    from ipyconvexai.functions.outside import LISTED, listing

    click.echo(render.table_text(LISTED, listing()))


@main.command()
@click.option("--state", help="Only those that are pending, in_progress, success, failed or canceled.")
@click.option("--name", help="Only those of this function.")
@_DB
def jobs(state: str | None, name: str | None, db: str | None) -> None:
    """List scheduled functions, newest first."""
    from ipyconvexai import api

    with _without_jobs(), _opened(db):
        click.echo(repr(api.jobs(state, name=name)))


@main.command()
@click.argument("source", metavar="[FILE]", type=click.Path(path_type=Path), required=False)
@_DB
@click.option("--user", help="As whom; default: JUPYTERHUB_USER, then your login name.")
@click.option("--concurrency", type=click.IntRange(min=1), help="How many actions run at one time.")
@click.option("--grace", type=click.FloatRange(min=0), help="Seconds in which running jobs may end when it is stopped.")
def worker(source: Path | None, **options: Any) -> None:
    """Run scheduled batches, and the functions and crons of FILE, a .py or .ipynb file, until SIGTERM or Ctrl-C."""
    from ipyconvexai import worker as the_worker

    given = {name: value for name, value in options.items() if value is not None}
    raise SystemExit(the_worker.main(source, **given, say=click.echo))


def _define(source: Path | None) -> None:
    """Have the functions of the file defined."""
    if source is not None:
        from ipyconvexai.worker import load

        load(source, say=lambda line: click.echo(line, err=True))


@contextlib.contextmanager
def _opened(db: str | None) -> Iterator[Any]:
    """The app of the ledger that was named; else the current one, which a file may have connected."""
    from ipyconvexai.application import app, connect

    if db is None:
        yield app()
        return
    with connect(db) as opened:
        yield opened


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(f"ipyconvexai {__version__}")
