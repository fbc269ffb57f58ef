"""What a model says is never run, neither as Python, nor as a shell's line, nor as SQL. Hostile answers go every way
that an answer can go; each would make a file, or a table, and an audit hook hears of whatever is executed.

And the package is read: each place that runs code, starts a process, unpickles, or builds SQL is on a list with its
reason, so that a new one is seen.
"""

from __future__ import annotations

import ast
import base64
import json
import re
import sys
import types
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.testing import Answer, Endpoint, Fault, ToolCall
from tests.functions.talking import shown
from tests.promises.promising import Figure, Tries
from tests.shells import own_shell
from tests.store.helpers import wait_for

PROMISE = "what a model says is never executed, neither as Python, nor in a shell, nor as SQL"
TRIES = Tries(5, 15, "hostile texts each way")  # all there are

WORD = "canary_7f3a"
DO = f"__import__('pathlib').Path('{WORD}').touch()"
REDUCED = base64.b64encode(b"cpathlib\nPath\n(V" + WORD.encode() + b"\ntR.").decode()
HOSTILE = [
    DO,
    f"```python\n{DO}\n```",
    f"{{{DO}}} {{{{ {DO} }}}} ${{{DO}}}",
    f"!touch {WORD}",
    f"%%bash\ntouch {WORD}",
    f"%run {WORD}.py\n%sx touch {WORD}\nget_ipython().system('touch {WORD}')",
    f"$(touch {WORD}) `touch {WORD}`; touch {WORD}",
    f"'; CREATE TABLE {WORD} (x INTEGER); --",
    f"\"; CREATE TABLE {WORD} (x INTEGER); COPY (SELECT 1) TO '{WORD}'; --",
    f"COPY (SELECT 1) TO '{WORD}'",
    f"%ai sql CREATE TABLE {WORD} (x INTEGER)",
    f"!!python/object/apply:os.system ['touch {WORD}']",
    REDUCED,
    json.dumps({"$import": f"os:system('touch {WORD}')", "__class__": DO, DO: DO, "name": DO}),
    f"<script>{WORD}()</script>",
]


def turn(number: int, tries: int) -> list[str]:
    """The hostile texts of the way with this `number`: each meets others, and together they meet all."""
    return [HOSTILE[(number * TRIES.short + place) % len(HOSTILE)] for place in range(tries)]


# ---------------------------------------------------------------------------------------------- what happened
class Heard:
    """What Python executed, of what has the word in it. Hooks cannot be taken away, so there is one."""

    def __init__(self) -> None:
        self.listens = False
        self.events: list[str] = []

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.listens or event not in _EVENTS:
            return
        if event == "exec":
            told = _words(arguments[0]) if isinstance(arguments[0], types.CodeType) else ""
        else:
            told = repr(arguments)
        if WORD in told:
            self.events.append(f"{event}: {told[:200]}")


_EVENTS = {"exec", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class", "import"}


def _words(code: types.CodeType) -> str:
    inner = [_words(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    return f"{code.co_names} {[each for each in code.co_consts if not isinstance(each, types.CodeType)]} {inner}"


HEARD = Heard()
sys.addaudithook(HEARD.hear)


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """Gives what came of the hostile answers: nothing."""
    cage = tmp_path / "cage"
    cage.mkdir()
    monkeypatch.chdir(cage)
    HEARD.events.clear()
    HEARD.listens = True

    def look() -> list[str]:
        tables = ai.app().store.read("SELECT table_name FROM duckdb_tables() WHERE table_name = ?", [WORD])
        made = [str(path) for path in tmp_path.rglob(f"*{WORD}*")]
        return [*HEARD.events, *made, *map(str, tables)]

    yield look
    HEARD.listens = False


def test_an_execution_would_be_heard(canary: Callable[[], list[str]], app: ai.App) -> None:
    """The control."""
    assert canary() == []
    exec(DO)
    with app.store.transaction() as execute:
        execute(f"CREATE TABLE {WORD} (x INTEGER)")
    heard = canary()
    assert len(heard) >= 3
    assert heard[0].startswith("exec")
    exec(compile(f"def inner():\n    return '{WORD}'", "x", "exec"))
    assert len(HEARD.events) >= 2


# ---------------------------------------------------------------------------------------------- the ways of an answer
def attempt(way: Callable[[], Any]) -> None:
    try:
        repr(way())
    except (errors.Error, SystemExit):
        pass


@TRIES.both
def test_answers_and_errors(
    tries: int, app: ai.App, endpoint: Endpoint, canary: Callable[[], list[str]], figure: Figure
) -> None:
    client = ai.OpenAI(max_retries=0)

    def plain(text: str) -> Any:
        return ai.generate("q")

    named = {"type": "object", "properties": {"name": {"type": "string"}}}
    ways: list[tuple[Callable[[str], Any], Callable[[str], Any]]] = [
        (str, plain),
        (str, lambda text: ai.generate("q", schema=dict[str, str])),
        (str, lambda text: list(ai.stream("q"))),
        (str, lambda text: ai.generate("q", conversation=text)),
        (str, lambda text: ai.conversation(text).send(text)),
        (str, lambda text: ai.generate("q", replay="reuse")),
        (str, lambda text: client.responses.create(model="m", input="q")),
        (lambda text: Answer(text, finish_reason=text), plain),
        (lambda text: Fault(400, message=text, code=text, type=text), plain),
        (
            lambda text: Answer(json.dumps({"name": text, "age": text, "tags": [text]})),
            lambda text: ai.generate("q", schema=named),
        ),
    ]
    for number, (said, way) in enumerate(ways):
        for text in turn(number, tries):
            endpoint.reply(said(text))
            attempt(lambda way=way, text=text: way(text))  # type: ignore[misc]
    for look in (ai.ledger.calls, ai.ledger.usage, ai.batches, ai.jobs):
        attempt(look)
    for text in HOSTILE:
        attempt(lambda text=text: ai.ledger.calls(containing=text))  # type: ignore[misc]
        attempt(lambda text=text: ai.ledger.purgeable(containing=text))  # type: ignore[misc]
        attempt(lambda text=text: ai.ledger.purgeable(conversation=text))  # type: ignore[misc]
        attempt(lambda text=text: ai.ledger.usage(by=text))  # type: ignore[misc]
        attempt(lambda text=text: ai.ledger.call(text))  # type: ignore[misc]
    assert canary() == []
    sent = endpoint.count
    assert sent > 0.8 * len(ways) * tries
    figure("0 executed", f"{sent} hostile answers, each of {len(ways)} ways")


def test_batches(app: ai.App, endpoint: Endpoint, canary: Callable[[], list[str]], tmp_path: Path) -> None:
    endpoint.reply(lambda call: HOSTILE[len(call.prompt) % len(HOSTILE)])
    frame = pd.DataFrame({"text": HOSTILE, DO: HOSTILE, "n": range(len(HOSTILE))})
    out = tmp_path / "out.csv"
    for way in (
        lambda: ai.map(frame, f"{{text}} {{{DO}}} {{n}}", into="answer", progress=False),
        lambda: ai.map(frame, "{text}", schema="name, score float", progress=False),
        lambda: ai.summarize(frame, "text", into=HOSTILE[7], progress=False),
        lambda: ai.reduce(frame, "text", by=DO, progress=False),
        lambda: ai.map(ai.summarize(frame, "text", progress=False), "{summary}", into="again", progress=False),
        lambda: ai.summarize(frame, "text", output=out, progress=False),
        lambda: ai.summarize(str(out), "summary", into="twice", progress=False),
    ):
        attempt(way)
    assert endpoint.count > 2 * len(HOSTILE)
    assert canary() == []


def note(text: str, number: int = 0) -> str:
    """Takes a note."""
    return f"noted {text}"


def test_tools_and_their_arguments(app: ai.App, endpoint: Endpoint, canary: Callable[[], list[str]]) -> None:
    sales = pd.DataFrame({"region": ["north"], "amount": [1]})
    talk = ai.run("ai.start_conversation", title="talk")
    from ipyconvexai.functions.tools import tools_of

    app.functions.give_tools(talk, tools_of([ai.tool(note, safe=True), ai.sql_tool(sales=sales)]))
    calls = [
        *(ToolCall("note", {"text": text}) for text in HOSTILE),
        *(ToolCall("note", {"text": text, "number": text, DO: text}) for text in HOSTILE[:3]),
        *(ToolCall(text[:60], {"text": text}) for text in HOSTILE[:4]),
        *(ToolCall(name, {"text": DO}) for name in ("__import__", "os.system", "exec", "ai.run", "note.__globals__")),
        *(ToolCall("sql", {"sql": text}) for text in HOSTILE[7:10]),
        *(ToolCall("ask_sales", {"sql": text}) for text in HOSTILE[7:10]),
    ]

    for start in range(0, len(calls), 10):
        part = calls[start : start + 10]
        endpoint.reply(
            lambda call, part=part: "done" if call.body["messages"][-1]["role"] == "tool" else Answer(tool_calls=part)
        )
        ai.run("ai.send_message", conversation_id=talk, content="go on")
        wait_for(lambda: shown(talk)[-1].role == "assistant" and shown(talk)[-1].status in ("done", "failed"), "it")
    told = [str(message.content) for message in shown(talk)]
    assert [text for text in HOSTILE[:7] if f"noted {text}" not in told] == [], "the tool got it as it is, as a text"
    assert canary() == []


def test_sql_of_a_model_makes_nothing(canary: Callable[[], list[str]], app: ai.App) -> None:
    tool = ai.sql_tool(sales=pd.DataFrame({"region": ["north"]}))
    for sql in (
        *HOSTILE[7:10],
        f"CREATE TABLE {WORD} (x INTEGER)",
        f"SELECT 1; COPY (SELECT 1) TO '{WORD}'",
        f"EXPORT DATABASE '{WORD}'",
        f"ATTACH '{WORD}' AS x",
        f"SELECT * FROM read_csv('{WORD}')",
    ):
        attempt(lambda sql=sql: tool.function.handler(None, sql=sql))  # type: ignore[misc]
        attempt(lambda sql=sql: ai.ledger.sql(sql))  # type: ignore[misc]
    assert canary() == []


CELLS = [
    *(f"%%ai -f {kind}\n{{number}}" for kind in ("code", "json", "math", "html", "markdown", "text", "image")),
    "%%ai -o reply\n{number}",
    "%%ai -c talk\n{number}",
    "%%ai --schema 'name, age int'\n{number}",
    "%%ai --models gpt-4o-mini,gpt-4.1-mini\n{number}",
    "{{reply}}\n%ai {{reply}}",
    "undefined_name_{number}",
    "%ai fix",
]
AT_THE_END = [
    "%ai error",
    "%ai log",
    "%ai usage",
    "%ai conversations",
    "%ai functions",
    "%ai sql SELECT text FROM calls",
]


@TRIES.both
def test_cells(
    tries: int, app: ai.App, endpoint: Endpoint, canary: Callable[[], list[str]], tmp_path: Path, figure: Figure
) -> None:
    """Code is put into the next cell, where a person may run it; nothing runs it."""
    with own_shell(tmp_path / "ipython") as shell:
        ai.load_ipython_extension(shell)
        try:
            for place, cell in enumerate(CELLS):
                for number, text in enumerate(turn(place, tries)):
                    endpoint.reply(text)
                    if "{reply}" in cell:
                        shell.run_cell(f"%%ai -o reply\n{number}")
                    HEARD.listens = "{reply}" not in cell  # a value of the user's, in a cell of the user's
                    shell.run_cell(cell.format(number=number).replace("{{reply}}\n", ""))
                    HEARD.listens = True
                    shell.payload_manager.clear_payload()
            for cell in AT_THE_END:
                shell.run_cell(cell)
        finally:
            ai.unload_ipython_extension(shell)
    assert endpoint.count > 8 * tries
    assert canary() == []
    figure("0 executed", f"{endpoint.count} answers in cells")


def test_what_is_drawn_and_shown(app: ai.App, endpoint: Endpoint, canary: Callable[[], list[str]]) -> None:
    frame = pd.DataFrame({"name": HOSTILE, "cost": range(len(HOSTILE))})

    @ai.query
    def rows(ctx: ai.QueryCtx) -> list[dict[str, Any]]:
        return frame.to_dict("records")  # type: ignore[return-value]

    for text in HOSTILE[::4]:
        for way in (
            lambda text=text: ai.chart(frame, "bar", x="name", y="cost", title=text),
            lambda text=text: ai.chart(frame, text, x=text, y=text),
            lambda text=text: ai.form(note, text=text),
            lambda text=text: ai.chat(text, system=text, suggestions=[text]),
        ):
            attempt(way)
    attempt(lambda: ai.run(rows))
    assert canary() == []


# ---------------------------------------------------------------------------------------------- the package, read
PACKAGE = Path(ai.__file__).parent
# Each place that runs, starts, imports or unpickles by a name that is not written there; and why no answer gets there.
RUNS = {
    ("batch/calling.py", "importlib.import_module"): "one of three modules, by a word that was checked",
    ("batch/specs.py", "importlib.import_module"): "the class of a schema, as its user scheduled it",
    ("accessors.py", "importlib.import_module"): "pandas and polars, by constants",
    ("__init__.py", "importlib.import_module"): "public names, by a constant table",
    ("render/__init__.py", "importlib.import_module"): "its rooms, by a constant table",
    ("functions/registry.py", "importlib.import_module"): "the built-in functions, by constants",
    ("notebook/preparing.py", "exec"): "--eval: the user's own cell, as IPython runs it",
    ("notebook/preparing.py", "eval"): "the same cell's last line",
    ("notebook/preparing.py", "compile"): "the same cell",
    ("worker.py", "exec"): "the user's own file of functions, named on the command line",
    ("worker.py", "compile"): "the same file",
    ("demo.py", "subprocess.run"): "JupyterLab, by constants",
    ("providers/weights.py", "subprocess.run"): "pip, by constants",
    ("providers/local.py", "subprocess.Popen"): "the local model's server: this Python and a module of ours",
    ("store/start.py", "subprocess.Popen"): "the keeper: this Python and a module of ours",
    (
        "store/frames_sql.py",
        "subprocess.Popen",
    ): "SQL over frames: this Python and a module of ours, by a pipe",
    ("testing/child.py", "subprocess.Popen"): "tests' own children",
    ("store/wire.py", "pickle"): "between a person's own processes, authenticated; only plain values are read",
}
# Files that build the text of statements; what of it is no constant. Values travel as parameters.
SQL = {
    "api.py": "a limit that is a whole number",
    "batch/batches.py": "columns of its own tables, from NamedTuples, and marks for parameters",
    "batch/job.py": "one of two conditions",
    "batch/provider_rows.py": "columns of its own tables",
    "batch/stored_frames.py": "constants, put together",
    "batch/specs.py": "the user's SELECT as given to ai.schedule, wrapped to learn its columns; it is run read-only",
    "functions/jobs.py": "constants, put together",
    "notebook/looking.py": "constants, put together",
    "records/ledger.py": "a column out of a constant table, by a checked word",
    "records/removal.py": "names of tables and columns of the ledger, quoted",
    "store/files.py": "names of columns and paths, quoted; in a database of its own that holds nothing else",
    "store/purging.py": "constants, put together",
    "store/rewriting.py": "names of tables and paths, quoted; constants",
    "store/writer.py": "names of its own tables and columns",
    "tables/catalog.py": "names of tables, quoted",
    "tables/database.py": "names of tables and columns, quoted when their class was defined",
    "tables/migration.py": "names of tables and columns, and types, quoted",
    "tables/model.py": "names of tables and columns, quoted",
    "tables/ranges.py": "names of columns, quoted; a limit that is a whole number",
}


@cache
def sources() -> list[tuple[str, ast.Module]]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return [(path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


_BUILT_IN = {"exec", "eval", "compile", "__import__", "execfile"}
_MODULES = {"subprocess", "marshal", "shelve", "dill", "cloudpickle", "runpy", "imp"}
_OF_OS = re.compile(r"os\.(system|popen|exec\w+|spawn\w+|posix_spawn\w*|startfile)")
_OF_A_SHELL = re.compile(r"\.(run_cell|run_cell_async|run_code|run_line_magic|ex|ev|system|getoutput)$")
_OTHERS = {"importlib.import_module", "asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell"}


def dotted(called: ast.expr) -> str:
    """`a.b.c`; what is no name is "()"."""
    if isinstance(called, ast.Attribute):
        return f"{dotted(called.value)}.{called.attr}"
    return called.id if isinstance(called, ast.Name) else "()"


def found_in(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pickle":
            yield "pickle"
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        if called in _BUILT_IN | _OTHERS or _OF_OS.fullmatch(called) or called.partition(".")[0] in _MODULES:
            yield called
        if _OF_A_SHELL.search(called) and called != "commands.run_cell":
            yield called


def test_each_place_that_runs_code_is_known() -> None:
    found = {(name, what) for name, tree in sources() for what in found_in(tree)}
    assert found == set(RUNS)


def test_what_runs_code_would_be_found() -> None:
    """The control."""
    for line in (
        "exec(x)", "a = eval(x)", "compile(x, 'n', 'exec')", "__import__(x)", "pickle.loads(x)", "os.system(x)",
        "subprocess.run(x, shell=True)", "shell.run_cell(x)", "get_ipython().system(x)", "importlib.import_module(x)",
        "os.execvp(x, y)", "runpy.run_path(x)",
    ):  # fmt: skip
        assert list(found_in(ast.parse(line))), line
    for line in ("re.compile(x)", "cursor.execute(x)", "model.eval", "x.exec"):
        assert not list(found_in(ast.parse(line))), line


_STATEMENT = re.compile(
    r"\b(SELECT .*\bFROM|INSERT INTO|UPDATE .*\bSET|DELETE FROM|CREATE (OR REPLACE |TEMP )*(TABLE|INDEX|VIEW)"
    r"|ALTER TABLE|DROP TABLE|ATTACH|COPY |FROM .*\bWHERE|WHERE \w+ = |ORDER BY)",
    re.DOTALL,
)
_CONSTANT = re.compile(r"_?[A-Z][A-Z_0-9]*")


def written_into_sql(tree: ast.Module) -> Iterator[str]:
    """Each expression that is put into the text of a statement, but for constants."""
    for node in ast.walk(tree):
        parts: list[ast.expr] = []
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(one.value) if isinstance(one, ast.Constant) else "x" for one in node.values)
            parts = [one.value for one in node.values if isinstance(one, ast.FormattedValue)]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod | ast.Add):
            text = str(node.left.value) if isinstance(node.left, ast.Constant) else ""
            parts = [] if isinstance(node.right, ast.Constant | ast.JoinedStr) else [node.right]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
            text = str(node.func.value.value) if isinstance(node.func.value, ast.Constant) else ""
            parts = [*node.args, *(keyword.value for keyword in node.keywords)]
        else:
            continue
        if _STATEMENT.search(text):
            yield from (told for one in parts if not _CONSTANT.fullmatch(told := ast.unparse(one)))


def test_each_file_that_builds_statements_is_known() -> None:
    found = {name: set(written_into_sql(tree)) for name, tree in sources()}
    assert {name: told for name, told in found.items() if told and name not in SQL} == {}
    assert [name for name in SQL if not found[name]] == [], "listed, and builds none"


def test_a_statement_that_is_built_would_be_found() -> None:
    for line in (
        "f'SELECT a FROM b WHERE c = {d}'", "'SELECT a FROM b WHERE c = %s' % d", "'DELETE FROM b WHERE c = ' + d",
        "'UPDATE b SET c = {}'.format(d)", "f'INSERT INTO b VALUES ({d})'",
    ):  # fmt: skip
        assert list(written_into_sql(ast.parse(line))) == ["d"], line
