"""Tab after ``%ai`` and on the first line of ``%%ai``: commands, options and what follows them, models, aliases, names.

One matcher of IPython's. It splits the line itself, since IPython ends words at the colon and the quotation mark that
names of models and conversations have. Imports the standard library and IPython only, looks at what is imported
already, and asks the ledger only where it is open. Promises: a Tab waits for the ledger no longer than ``PATIENCE``;
unloading takes it out again, and other completers go on working where it does not know what may follow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from ipyconvexai.notebook.help import WORDS
from ipyconvexai.notebook.session import Session, of_shell

__all__ = ["COMMANDS", "PATIENCE", "candidates", "install", "is_defined", "remove", "within"]

COMMANDS = WORDS
STATES = ("pending", "in_progress", "success", "failed", "canceled")
GROUPS = ("model", "provider", "day", "notebook", "user", "source", "status")
KEPT_AS = (".parquet", ".csv", ".jsonl")
OPTIONS_OF = {
    "usage": ("--by",),
    "log": ("--status", "--model", "--since", "-n"),
    "sql": ("-o",),
    "export": ("--since", "--model", "--status", "--all", "--force"),
    "purge": ("--before", "--containing", "--conversation", "--all", "--yes"),
}

_OF_PYTHON = ("run", "sql", "error", "fix")  # take variables of the user's, or whatever a question takes
_TABLE_FOLLOWS = ("from", "join", "table", "describe", "summarize")
_FRAMES = ("DataFrame", "LazyFrame", "Table", "RecordBatch", "DuckDBPyRelation", "Relation")

PATIENCE = 0.1  # seconds a Tab waits for the ledger
MOST = 200  # names, files

_ID = "ipyconvexai"
_FIRST = 1000.0  # before IPython's own, which are not asked where this one has an answer
# Compiled when they are first used: loading the extension stays cheap.
_LINE = r"(?s)\s*(%%?)ai[ \t]+(.*)"
# Quotation marks that are not closed: they begin a word, and none before a blank or the end follows.
_OPEN = r"""(?s)(?:^|(?<=[\s=]))(["'])(?:(?!\1(?:\s|\Z)).)+\Z|(?:^|(?<=[\s=]))["']\Z"""


# ------------------------------------------------------------------------------------------- IPython's protocol
def install(shell: Any) -> None:
    if _ours(shell) is None:
        shell.Completer.custom_matchers.append(_matcher(shell))


def remove(shell: Any) -> None:
    matcher = _ours(shell)
    if matcher is not None:
        shell.Completer.custom_matchers.remove(matcher)


def _ours(shell: Any) -> Any:
    found = (each for each in shell.Completer.custom_matchers if getattr(each, "matcher_identifier", "") == _ID)
    return next(found, None)


def _matcher(shell: Any) -> Any:
    from IPython.core.completer import SimpleCompletion, context_matcher

    def complete(context: Any) -> dict[str, Any]:
        found, fragment, silent = _complete(shell, context)
        return {
            "completions": [SimpleCompletion(text=text) for text in found] or (_Nothing() if silent else []),
            "matched_fragment": fragment,
            "suppress": True,  # those of all others
            "ordered": True,
        }

    return context_matcher(priority=_FIRST, identifier=_ID)(complete)


class _Nothing(list[Any]):
    """No name fits, and none of Python's would: IPython asks no other matcher where one says that it has some."""

    def __len__(self) -> int:
        return 1


def _complete(shell: Any, context: Any) -> tuple[list[str], str, bool]:
    """What could stand for the end of the text before the cursor, that end, and whether nothing else could."""
    match = re.fullmatch(_LINE, context.text_until_cursor)
    is_cell = match is not None and match[1] == "%%"
    above = context.full_text.split("\n")[: context.cursor_line]
    if match is None or (is_cell and any(line.strip() for line in above)):
        return [], context.token, False
    with contextlib.suppress(Exception):  # a class of the user's that fails when it is looked at
        return *candidates(of_shell(shell), match[2], is_cell=is_cell), not is_cell and _is_known(match[2])
    return [], context.token, False


def _is_known(text: str) -> bool:
    """Whether `text` is a command with a blank behind it, which takes nothing of Python's."""
    command, blank, rest = text.partition(" ")
    return bool(blank) and command in COMMANDS and command not in _OF_PYTHON and "{" not in rest


# ----------------------------------------------------------------------------------------------------- the line
def candidates(session: Session, text: str, *, is_cell: bool) -> tuple[list[str], str]:
    """What could stand for the last word of `text`, which follows ``%ai`` or ``%%ai``, and that word as it is."""
    from ipyconvexai.notebook.words import words_of

    fragment = _last_word(text)
    words = words_of(text[: len(text) - len(fragment)])
    if words and words[-1].endswith("="):  # --with="the na
        words[-1] = words[-1][:-1]
    elif re.match(r"--[\w-]+=", fragment):
        option, _, fragment = fragment.partition("=")
        words.append(option)
    wanted = _Wanted(session, fragment)
    found = wanted.in_cell(words) if is_cell else wanted.on_line(words)
    if words[-1:] == ["--models"]:
        fragment = fragment.rpartition(",")[2]
    return found, fragment


def _last_word(text: str) -> str:
    """With its blanks, where it began with a quotation mark."""
    match = re.search(_OPEN, text) or re.search(r"\S*\Z", text)
    return match[0] if match else ""


class _Wanted:
    """What fits where the cursor is, after the words before `fragment`."""

    def __init__(self, session: Session, fragment: str) -> None:
        self.session = session
        self.fragment = fragment

    def in_cell(self, words: list[str]) -> list[str]:
        first = self._fitting(["help", "sql"]) if not words else []
        return first + self._asking(words, is_cell=True)

    def on_line(self, words: list[str]) -> list[str]:
        if not words:
            return self._fitting(COMMANDS) + self._asking(words, is_cell=False)
        if words[0] in COMMANDS:
            return self._after(words[0], words[1:])
        return self._asking(words, is_cell=False)

    def _asking(self, words: list[str], *, is_cell: bool) -> list[str]:
        """Options and their values; on a cell's line one model, wherever it stands."""
        from ipyconvexai.notebook.options import FLAGS, OPTIONS

        named = False
        left = iter(words)
        for word in left:
            option, equals, _ = word.partition("=") if word.startswith("--") else (word, "", "")
            if option in OPTIONS:
                if not equals and next(left, None) is None:
                    return self._value(option)
                named = named or option in ("--model", "--models")
            elif option not in FLAGS:
                if named or not is_cell:  # the question has begun
                    return []
                named = True
        options = self._fitting([name for name in (*OPTIONS, *FLAGS) if name not in words or name == "--with"])
        return (self._models() if is_cell and not named else []) + options

    def _value(self, option: str) -> list[str]:
        from ipyconvexai.notebook.options import FORMATS

        match option:
            case "--model":
                return self._models()
            case "--models":
                return _Wanted(self.session, self.fragment.rpartition(",")[2])._models()
            case "-f" | "--format":
                return self._fitting(FORMATS)
            case "--replay":
                return self._fitting(("off", "reuse", "only"))
            case "-c" | "--conversation":
                return self._fitting(_in_ledger(TITLES))
            case "--with" | "--save":
                return self._fitting(_in_ledger(PROMPTS))
            case "--schema":
                return self._fitting(_schemas(self.session.names))
            case "--api-key-name":
                return self._fitting(_key_variables())
        return []

    def _after(self, command: str, words: list[str]) -> list[str]:
        if command in OPTIONS_OF and words[-1:] == ["--status"]:
            return self._fitting(_statuses())
        if command in OPTIONS_OF and words[-1:] == ["--conversation"]:
            return self._value("--conversation")
        if command in OPTIONS_OF and words[-1:] == ["--model"]:
            return list(dict.fromkeys([*self._fitting(_in_ledger(MODELS)), *self._models()]))
        options = [name for name in OPTIONS_OF.get(command, ()) if name not in words]
        if not words:
            options.append("--help")
        begun = self._fitting(options) if self.fragment.startswith("-") else []
        return begun + self._argument(command, words)

    def _argument(self, command: str, words: list[str]) -> list[str]:
        match command, words:
            case (("run" | "form"), []):
                return self._fitting(sorted(name for name, function in _functions().items() if not function.internal))
            case "run", [name, *given]:
                # A value is Python's to complete.
                return [] if set(self.fragment) & set("='\"") else self._fitting(_arguments(name, given))
            case "jobs", []:
                return self._fitting(STATES)
            case (("show" | "purge"), []) | ("diff", ([] | [_])):
                return self._fitting([key for key in _in_ledger(NEWEST) if key not in words])
            case "sql", [*_, before] if before.lower() in _TABLE_FOLLOWS:
                return self._fitting([*_in_ledger(TABLES), *_frames(self.session.names)])
            case "budget", []:
                return self._fitting(["off"])
            case "budget", ["off"]:
                return self._fitting(_in_ledger(BUDGETS))
            case "usage", []:
                return self._fitting(["--by"])
            case "usage", ["--by"]:
                return self._fitting(GROUPS)
            case "list", []:
                return self._fitting([*_providers(), "all"])
            case "model", []:
                return self._models()
            case "help", []:
                return self._fitting(COMMANDS)
            case "replay", []:
                return self._fitting(("on", "off", "only"))
            case "cancel", []:
                return self._fitting(_in_ledger(CANCELABLE))
            case "export", []:
                return self._files()
            case (("update" | "delete" | "dealias"), []):
                return self._fitting(sorted(self.session.aliases))
            case (("alias" | "register" | "update"), [_, *rest]):
                return self._alias(rest)
            case (("error" | "fix"), _):
                return self._asking(words, is_cell=True)
        return []

    def _alias(self, rest: list[str]) -> list[str]:
        if not rest:
            return self._models()
        if rest[-1] == "--api-key-name":
            return self._value(rest[-1])
        return self._fitting([name for name in ("--api-base", "--api-key-name") if name not in rest])

    # ------------------------------------------------------------------------------------------------- what fits
    def _fitting(self, names: Iterable[str]) -> list[str]:
        """Those that begin with what is written, in quotation marks where a blank needs them; else in whatever case."""
        quote = self.fragment[:1] if self.fragment[:1] in ("'", '"') else ""
        begun = self.fragment.removeprefix(quote)
        fitting = [name for name in names if name.startswith(begun)]
        if not fitting:
            fitting = [name for name in names if name.lower().startswith(begun.lower())]
        return [text for name in fitting if (text := _written(name, quote))]

    def _models(self) -> list[str]:
        """Aliases, providers, and well-known models as ``provider:model``, or with a slash where one is written."""
        from ipyconvexai.providers.catalog import providers, split

        separator = split(self.fragment)[1] or ":"
        known = [(provider.name, name) for provider in providers() for name in provider.models]
        full = [f"{provider}{separator}{name}" for provider, name in known]
        fitting = self._fitting([*sorted(self.session.aliases), *_providers(), *full])
        return fitting or [f"{provider}:{name}" for provider, name in known if name.startswith(self.fragment)]

    def _files(self) -> list[str]:
        """Folders, and files of the kinds that are written."""
        folder = os.path.dirname(self.fragment.lstrip("'\""))
        names = []
        with contextlib.suppress(OSError), os.scandir(os.path.expanduser(folder) or ".") as entries:
            for entry, _ in zip(entries, range(50 * MOST), strict=False):
                if entry.is_dir():
                    names.append(entry.name + "/")
                elif entry.name.endswith(KEPT_AS):
                    names.append(entry.name)
        before = self.fragment.lstrip("'\"")[: len(folder)] + ("/" if folder and folder != "/" else "")
        return self._fitting([before + name for name in sorted(names) if name[0] != "."][:MOST])


def _written(name: str, quote: str) -> str:
    """`name` as one word of the line; empty where it cannot be one."""
    if not name.isprintable():
        return ""
    if not quote and (not name or any(sign.isspace() or sign in "'\"" for sign in name)):
        quote = '"'
    return f"{quote}{name.replace(quote, chr(92) + quote)}{quote}" if quote else name


# -------------------------------------------------------------------------------------------------- where names are
def _providers() -> list[str]:
    from ipyconvexai.providers.catalog import providers

    return [provider.name for provider in providers()]


def _statuses() -> list[str]:
    from ipyconvexai.values import Status

    return [str(status) for status in Status]


def _key_variables() -> list[str]:
    """Names only: those of the providers, and of whatever is set and called a key."""
    from ipyconvexai.providers.catalog import providers

    known = [name for provider in providers() for name in provider.key_variables]
    return sorted({*known, *(name for name in os.environ if name.endswith("_KEY"))})


def _schemas(names: Any) -> list[str]:
    """The classes of the user's that an answer can be read into."""
    pydantic = sys.modules.get("pydantic")  # whoever has a model has imported it
    model = pydantic.BaseModel if pydantic is not None else ()

    def fits(value: Any) -> bool:
        if not isinstance(value, type) or value is model:
            return False
        with contextlib.suppress(Exception):  # a class may fail when it is looked at
            return issubclass(value, model) or dataclasses.is_dataclass(value)
        return False

    return [name for name, value in list(names.items()) if not name.startswith("_") and fits(value)]


def _frames(names: Any) -> list[str]:
    """The user's frames, by the names of their classes: none of their modules is imported for this."""
    return [name for name, value in list(names.items()) if name[:1] != "_" and type(value).__name__ in _FRAMES]


def _arguments(name: str, given: list[str]) -> list[str]:
    function = _functions().get(name)
    if function is None or given[-1:] == ["-o"]:
        return []
    taken = {word.partition("=")[0] for word in given}
    return [*(f"{argument}=" for argument in function.arguments.names if argument not in taken), *({"-o"} - taken)]


def is_defined(name: str) -> bool:
    """Whether a function of that name is defined so far."""
    return name in _functions()


def _functions() -> dict[str, Any]:
    """What is defined so far; nothing where nobody has imported the functions yet."""
    module = sys.modules.get("ipyconvexai.functions.registry")
    if module is None:
        return {}
    registry = module.registry
    return {name: registry.find(name) for name in registry.names()}


# ----------------------------------------------------------------------------------------------------- the ledger
TITLES = (
    "SELECT title FROM conversations WHERE title IS NOT NULL GROUP BY title ORDER BY max(created_at) DESC LIMIT 200"
)
PROMPTS = "SELECT DISTINCT name FROM prompts ORDER BY name LIMIT 200"
# Crons by their names, then what runs or is to run, the newest first.
CANCELABLE = """
    (SELECT name FROM crons WHERE next_time IS NOT NULL ORDER BY name LIMIT 200)
    UNION ALL (SELECT id::VARCHAR FROM batches WHERE finished_at IS NULL ORDER BY created_at DESC LIMIT 20)
    UNION ALL (SELECT id::VARCHAR FROM scheduled_functions WHERE state IN ('pending', 'in_progress')
               ORDER BY created_at DESC LIMIT 20)
"""
NEWEST = "SELECT right(id::VARCHAR, 8) FROM requests ORDER BY sent_at DESC, id DESC LIMIT 20"
BUDGETS = "SELECT name FROM limits WHERE json_extract_string(definition, '$.kind') = 'budget' ORDER BY name LIMIT 200"
MODELS = (
    "SELECT DISTINCT concat_ws(':', provider, model) AS name FROM requests WHERE model <> '' ORDER BY name LIMIT 200"
)
TABLES = """
    SELECT table_name AS name FROM duckdb_tables() WHERE NOT internal
    UNION SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY name LIMIT 200
"""

_asked = threading.Lock()  # held while the ledger is asked: a slow one is not asked again with each Tab


def _in_ledger(sql: str) -> list[str]:
    """What `sql` gives, where the ledger is open in this process already and answers at once."""
    module = sys.modules.get("ipyconvexai.application")
    app = vars(module).get("_current") if module is not None else None
    if app is None or app.is_closed:
        return []
    return within(lambda: [str(row[0]) for row in app.store.read(sql)], PATIENCE)


def within(read: Callable[[], list[str]], seconds: float) -> list[str]:
    """What `read` gives; nothing where it fails, takes longer than `seconds`, or an earlier one has not ended."""
    found: list[list[str]] = []
    if not _asked.acquire(blocking=False):
        return []

    def work() -> None:
        try:
            with contextlib.suppress(Exception):
                found.append(read())
        finally:
            _asked.release()

    thread = threading.Thread(target=work, name="ipyconvexai-completion", daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else []
