"""A form without a page: what is told of its inputs, what is made of what people put in, how a run stands."""

from __future__ import annotations

import asyncio
import datetime
import enum
import threading
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pandas as pd
import polars as pl
import pytest
from pydantic import BaseModel, Field

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.testing import Answer, Endpoint
from ipyconvexai.widgets import form as rooms
from ipyconvexai.widgets.form import Form
from ipyconvexai.widgets.transcripts import Transcripts
from tests.store.helpers import wait_for

SALES = pd.DataFrame({"day": ["Mon", "Tue"], "cost": [1.5, 2.0]})


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Options(BaseModel):
    depth: int = 1


class Page:
    """What a page was told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.heard = 0

    def send(self, message: dict[str, Any]) -> None:
        if message == {"kind": "heard"}:
            self.heard += 1
        else:
            self.told.append(message)

    @property
    def state(self) -> dict[str, Any]:
        return [one for one in self.told if one["kind"] == "state"][-1]

    def over(self) -> dict[str, Any]:
        """How the run ended."""
        wait_for(lambda: any(one.get("status", "running") != "running" for one in self.told), "its end")
        return self.state


def opened(fn: Any, **values: Any) -> tuple[Form, Page]:
    made, page = ai.form(fn, **values), Page()
    made._view = page
    return made, page


def inputs(made: Form) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in made._state(True)["fields"]}


def put_in(made: Form, page: Page, **words: Any) -> dict[str, Any]:
    """Fill in, run, and wait for the end."""
    page.told.clear()
    first = {name: one["value"] for name, one in inputs(made).items()}
    made._heard({"kind": "run", "values": first | words})
    return page.over()


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The notebook's."""
    names: dict[str, Any] = {"sales": SALES, "fast": pl.DataFrame({"a": [1]}), "_hidden": SALES, "number": 5}
    monkeypatch.setattr(rooms, "_variables", lambda: names)
    return names


GIVEN: dict[str, Any] = {}


@ai.action
async def take(
    ctx: Any,
    topic: str,
    prompt: str = "",
    words: Annotated[int, Field(ge=1, lt=500, description="How <many>.")] = 50,
    ratio: float | None = None,
    careful: bool = True,
    sure: bool | None = None,
    colour: Colour = Colour.BLUE,
    kind: Literal["short", "long"] | None = None,
    level: Literal[1, 2] = 1,
    since: datetime.date = datetime.date(2026, 1, 2),
    at: datetime.datetime | None = None,
    tags: list[str] = ["a", "b"],  # noqa: B006 - read only
    sizes: set[int] | None = None,
    options: Options = Options(),  # noqa: B008 - read only
    frame: pd.DataFrame | None = None,
    other_df=None,
    conversation: ai.Id[ai.Conversation] | None = None,
    anything: Any = None,
) -> str:
    """Take <all> of it.

    And more."""
    GIVEN.clear()
    GIVEN.update({name: value for name, value in locals().items() if name != "ctx"})
    return f"**{topic}**"


def test_each_hint_has_its_input(app: ai.App):
    made, _ = opened(take, topic="Bridges")
    shown = inputs(made)
    assert {name: one["kind"] for name, one in shown.items()} == {
        "topic": "text", "prompt": "area", "words": "number", "ratio": "number", "careful": "check", "sure": "choice",
        "colour": "choice", "kind": "choice", "level": "choice", "since": "date", "at": "datetime-local",
        "tags": "lines", "sizes": "lines", "options": "json", "frame": "variable", "other_df": "variable",
        "conversation": "text", "anything": "text",
    }  # fmt: skip
    assert {name: one["value"] for name, one in shown.items() if one["value"] != ""} == {
        "topic": "Bridges", "words": "50", "careful": True, "colour": "blue", "level": "1", "since": "2026-01-02",
        "tags": "a\nb", "options": '{\n  "depth": 1\n}',
    }  # fmt: skip
    assert (shown["words"]["min"], shown["words"]["max"], shown["words"]["step"]) == (1, 499, 1)
    assert shown["words"]["help"] == "How <many>."
    assert [shown[name]["choices"] for name in ("colour", "kind", "level")] == [
        ["red", "blue"], ["short", "long"], ["1", "2"]
    ]  # fmt: skip
    assert [name for name, one in shown.items() if not one["optional"]] == ["topic"]
    assert made._state(True)["about"] == "Take <all> of it."


def test_what_stands_there_first_is_what_runs(app: ai.App, variables: dict[str, Any]):
    made, page = opened(take, topic="Bridges")
    end = put_in(made, page)
    assert (end["status"], end["problems"], end["error"]) == ("done", {}, "")
    assert end["result"]["blocks"] == ["<p><strong>Bridges</strong></p>\n"]
    assert made.result == "**Bridges**"
    defaults = take.ai_function.arguments.defaults  # type: ignore[attr-defined] # a decorated function's
    assert {"topic": "Bridges", **defaults} == GIVEN


def test_what_is_put_in_becomes_what_it_means(app: ai.App, variables: dict[str, Any]):
    made, page = opened(take)
    key = app.generate("Hi", conversation="Bridges").conversation_id
    end = put_in(
        made, page, topic="5", prompt="null", words="7", ratio="0.5", careful=False, sure="true", colour="red",
        kind="long", level="2", since="2026-11-23", at="2026-11-23T13:45", tags=" one \n\n2\n", sizes="3\n4",
        options='{"depth": 3}', frame="sales", other_df="fast", conversation=key, anything="[1, 2]",
    )  # fmt: skip
    assert (end["status"], end["problems"], end["error"]) == ("done", {}, "")
    assert GIVEN.pop("frame") is SALES
    assert GIVEN.pop("other_df") is variables["fast"]
    assert {
        "topic": "5", "prompt": "null", "words": 7, "ratio": 0.5, "careful": False, "sure": True, "colour": Colour.RED,
        "kind": "long", "level": 2, "since": datetime.date(2026, 11, 23), "at": datetime.datetime(2026, 11, 23, 13, 45),
        "tags": ["one", "2"], "sizes": {3, 4}, "options": Options(depth=3), "conversation": key, "anything": [1, 2],
    } == GIVEN  # fmt: skip


def test_what_is_wrong_is_told_beside_its_input_and_nothing_runs(app: ai.App, variables: dict[str, Any]):
    made, page = opened(take)
    GIVEN.clear()
    end = put_in(
        made, page, topic="", words="0", ratio="<b>", colour="green", since="2026-13-01", sizes="x", options="{",
        frame="gone", conversation="none",
    )  # fmt: skip
    assert (end["status"], end["error"], GIVEN) == ("refused", "", {})
    assert end["problems"].pop("frame") == "There is no variable 'gone' any more."
    assert end["problems"].pop("options").startswith("This is no JSON: ")
    assert end["problems"].pop("topic") == "This is needed."
    assert "int 0" in end["problems"].pop("words")
    assert "str '<b>'" in end["problems"].pop("ratio")
    assert "it is no id" in end["problems"].pop("conversation")
    assert set(end["problems"]) == {"colour", "since", "sizes"}
    assert put_in(made, page, topic="x", options='{"depth": "deep"}')["problems"].keys() == {"options"}


def test_an_id_of_another_table_is_told_beside_its_input(app: ai.App):
    class FormCat(ai.Table):
        name: str

    class FormDog(ai.Table):
        name: str

    @ai.mutation
    def add_cat(ctx: Any) -> str:
        return str(ctx.db.insert(FormCat(name="Tom")))

    @ai.query
    def load_dog(ctx: Any, dog: ai.Id[FormDog]) -> None: ...

    key = ai.run(add_cat)
    made, page = opened(load_dog)
    end = put_in(made, page, dog=key)
    assert end["problems"]["dog"].endswith("ai.Id[FormDog] was expected")


def test_variables_that_fit_are_offered(app: ai.App, variables: dict[str, Any]):
    made, page = opened(take)
    made._heard({"kind": "variables", "name": "frame"})
    made._heard({"kind": "variables", "name": "other_df"})
    wait_for(lambda: len(page.told) == 2, "the offers")
    offered = {one["name"]: [each["name"] for each in one["found"]] for one in page.told}
    assert offered == {"frame": ["sales"], "other_df": ["sales", "fast"]}
    assert page.told[0]["found"][0]["what"] == "DataFrame 2 × 2"


class Closed:
    """Gives nothing of itself away."""

    @property
    def shape(self) -> Any:
        raise RuntimeError("the file is closed")


def test_a_variable_that_fails_to_describe_itself_is_offered_all_the_same(app: ai.App, variables: dict[str, Any]):
    def takes(one: Closed, frame: pd.DataFrame) -> None: ...

    variables["closed"] = Closed()
    made, page = opened(takes)
    made._heard({"kind": "hello"})
    wait_for(lambda: len(page.told) == 2, "the offers")
    assert page.told[0]["found"] == [{"name": "closed", "what": "Closed"}]
    assert [each["name"] for each in page.told[1]["found"]] == ["sales"]


class Odd(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("it had \x1b[1msk-test-0123456789abcdef"), "RuntimeError: it had ***"),
        (Odd(), "Odd: (it does not say why)"),
        (errors.StoreError("sk-test-0123456789abcdef", cure="Do better."), "***\n  Do better."),
    ],
)
def test_what_nobody_expects_is_told(app: ai.App, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str):
    def fails() -> dict[str, Any]:
        raise error

    monkeypatch.setattr(rooms, "_variables", fails)
    made, page = opened(take)
    made._heard({"kind": "variables", "name": "frame"})
    wait_for(lambda: page.told, "the error")
    assert page.told == [{"kind": "error", "text": words, "running": False}]
    assert page.heard == 1
    assert put_in(made, page, topic="x", frame="sales")["error"] == words


def test_nothing_that_is_told_holds_a_key(app: ai.App, variables: dict[str, Any]):
    key = "sk-test-0123456789abcdef"

    def secret(
        given: Literal[key, "other"] = key,  # type: ignore[valid-type] # made while it runs, on purpose
        text: Annotated[str, Field(description=f"As {key}")] = key,
        words: list[str] = [key],  # noqa: B006 - read only
    ) -> Any:
        return [{key: key}]

    secret.__name__ = f"secret_{key}"
    secret.__doc__ = f"With {key}"
    made, page = opened(secret)
    state = made._state(True)
    assert state["about"] == "With ***"
    assert [one["value"] for one in state["fields"]] == ["***"] * 3
    made._heard({"kind": "run", "values": {"given": key, "text": key, "words": key}})
    assert page.over()["status"] == "done"
    made._heard({"kind": "run", "values": {"given": f"no {key}", "text": key, "words": key}})
    wait_for(lambda: page.state["problems"], "the problem")
    told = [state, page.told, made._transcripts._made(), repr(made)]
    assert [str(each) for each in told if key in str(each)] == []


def test_a_frame_is_given_first_by_its_variable(app: ai.App, variables: dict[str, Any]):
    made, _ = opened(take, frame=SALES)
    assert inputs(made)["frame"]["value"] == "sales"
    with pytest.raises(errors.InputError, match="cannot stand in a form"):
        ai.form(take, frame=SALES.copy())
    with pytest.raises(errors.ArgumentsError, match="topics"):
        ai.form(take, topics="x")


HELD = threading.Event()
RUNS: list[int] = []


@ai.action
async def hold(ctx: Any) -> str:
    RUNS.append(1)
    await asyncio.to_thread(HELD.wait, 10)
    return "at last"


def test_two_presses_run_once_and_a_page_that_opens_later_sees_it(app: ai.App):
    HELD.clear()
    RUNS.clear()
    made, page = opened(hold)
    for _ in range(2):
        made._heard({"kind": "run", "values": {}})
    wait_for(lambda: RUNS, "the first run")
    later = made._view = Page()
    made._heard({"kind": "hello"})
    wait_for(lambda: later.told, "its state")
    assert later.state["status"] == "running"
    assert later.state["seconds"] > 0
    HELD.set()
    assert later.over()["status"] == "done"
    assert len(RUNS) == 1
    assert [one["status"] for one in page.told] == ["running"]


@ai.action
def spin(ctx: Any) -> None:
    RUNS.append(1)
    while True:
        HELD.wait(0.01)


@pytest.mark.parametrize("endless", [hold, spin])
def test_cancel_ends_it(app: ai.App, endless: Callable[..., Any]):
    HELD.clear()
    RUNS.clear()
    made, page = opened(endless)
    made._heard({"kind": "run", "values": {}})
    wait_for(lambda: RUNS, "the run")
    made._heard({"kind": "cancel"})
    assert page.over()["status"] == "canceled"
    HELD.set()
    page.told.clear()
    made._heard({"kind": "run", "values": {}})
    wait_for(lambda: len(RUNS) == 2, "that it can be run again")
    made._heard({"kind": "cancel"})
    page.over()


def test_cancel_stops_the_provider(app: ai.App, endpoint: Endpoint):
    @ai.action
    async def ask(ctx: Any, question: str) -> str:
        return str((await ctx.generate(question)).text)

    endpoint.reply(Answer("late", delay=20))
    made, page = opened(ask, question="Hi")
    made._heard({"kind": "run", "values": {"question": "Hi"}})
    endpoint.wait(lambda double: double.count == 1)
    made._heard({"kind": "cancel"})
    assert page.over()["status"] == "canceled"
    endpoint.wait(lambda double: double.disconnects == 1)


def test_an_error_is_told_with_its_cure_and_without_keys(app: ai.App, monkeypatch: pytest.MonkeyPatch):
    @ai.query
    def writes(ctx: Any, how: str) -> None:
        if how == "own":
            raise ValueError("it had <b>sk-test-0123456789abcdef</b>")
        ctx.db.insert(ai.Document(text="x"))

    made, page = opened(writes)
    end = put_in(made, page, how="write")
    assert end["status"] == "failed"
    assert "\n" in end["error"], "the cure"
    end = put_in(made, page, how="own")
    assert end["error"].startswith("ValueError: it had <b>"), "the page puts it in as text"
    assert "sk-test" not in str(end)
    assert made.result is None


@ai.action  # in a query the import of matplotlib would take longer than its second
def show(ctx: Any, what: str) -> Any:
    return RESULTS[what]()


def figure() -> Any:
    from matplotlib.figure import Figure

    made = Figure()
    made.add_subplot().set_title("<b>Costs</b>")
    return made


RESULTS: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "text": lambda: "# One\n\n<img src=x onerror=alert(1)>",
    "rows": lambda: [{"<b>": "<img src=x>", "n": 1}],
    "frame": lambda: SALES,
    "chart": lambda: ai.chart(SALES, "line"),
    "figure": figure,
    "number": lambda: 5,
    "dict": lambda: {"<b>": 1},
}


@pytest.mark.parametrize("what", RESULTS)
def test_results_are_drawn(app: ai.App, what: str):
    made, page = opened(show)
    end = put_in(made, page, what=what)
    result = end["result"]
    assert end["status"] == "done", end
    match what:
        case "nothing":
            assert result == {"kind": "text", "text": "Done."}
        case "number" | "dict":
            assert result == {"kind": "text", "text": repr(RESULTS[what]())}
        case "chart" | "figure":
            assert result["kind"] == "picture"
            assert result["data"].startswith("iVBOR")
            assert result["width"] > 100
            assert ("Costs" if what == "figure" else "Tue: 2") in result["alt"]
        case _:
            (html,) = result["blocks"]
            assert "<img" not in html
            assert ("<h1>One" if what == "text" else "<table") in html


def test_the_transcript_says_what_it_was_and_gave(app: ai.App):
    made, page = opened(show)
    assert "Form: show" in made._transcripts._made()["text/markdown"]
    put_in(made, page, what="text")
    said = made._transcripts._made()["text/markdown"]
    assert "- what: text" in said
    assert "# One" in said
    assert "<img" not in said
    assert "Not connected" in said


def test_a_transcript_is_made_once_and_not_on_the_loop(app: ai.App):
    class Output:
        def __init__(self) -> None:
            self.shown: list[dict[str, str]] = []

        def update(self, data: dict[str, str], raw: bool) -> None:
            self.shown.append(data)

    made_in: list[str] = []

    def text() -> str:
        made_in.append(threading.current_thread().name)
        return "# One"

    async def renew() -> str:
        for _ in range(3):  # faster than it is written
            transcripts.renew()
        return threading.current_thread().name

    transcripts = Transcripts(text, note="Not connected")
    outputs = [Output(), Output()]
    transcripts._outputs.extend(outputs)
    loop = app.loop.submit(renew()).result(5)
    wait_for(lambda: outputs[1].shown, "the text")
    assert len(made_in) == 1
    assert made_in != [loop]
    assert outputs[0].shown == outputs[1].shown
    assert outputs[0].shown[0]["text/markdown"].startswith("# One")


def test_it_runs_the_newest_function_of_that_name(app: ai.App):
    def define(result: str) -> Any:
        @ai.query
        def newest(ctx: Any, a: int = 1) -> str:
            return result

        return newest

    made, page = opened(define("old"))
    define("new")
    put_in(made, page)
    assert made.result == "new"

    @ai.query
    def newest(ctx: Any, b: int) -> str:
        return "other"

    assert "other parameters" in put_in(made, page)["error"]


def test_a_plain_function_will_do(app: ai.App):
    def plain(text: str, *, times: int = 2) -> str:
        return text * times

    async def waits(text: str) -> str:
        return text

    made, page = opened(plain)
    assert list(inputs(made)) == ["text", "times"]
    assert put_in(made, page, text="ab")["status"] == "done"
    assert made.result == "abab"
    assert put_in(made, page, text="ab", times="x")["problems"].keys() == {"times"}
    made, page = opened(waits)
    put_in(made, page, text="ab")
    assert made.result == "ab"
    assert repr(made) == "<form of waits: inputs in a notebook; elsewhere waits(text=...)>"
    made, page = opened(lambda ctx, _: ctx + _)
    put_in(made, page, ctx="a", _="b")
    assert made.result == "ab"
    with pytest.raises(errors.InputError, match="does not tell its parameters"):
        ai.form(min)


def test_in_a_terminal_it_says_how_to_run_it(app: ai.App, capsys: pytest.CaptureFixture[str]):
    ai.form("show")._ipython_display_()
    assert capsys.readouterr().out == '<form of show: inputs in a notebook; elsewhere ai.run("show", what=...)>\n'


def test_what_is_no_function_is_refused(app: ai.App):
    with pytest.raises(errors.InputError):
        ai.form(5)
    with pytest.raises(errors.UnknownFunctionError, match="shows"):
        ai.form("shows")


def test_a_ledger_that_was_closed_says_so(app: ai.App):
    made, page = opened(show)
    app.close()
    made._heard({"kind": "run", "values": {"what": "text"}})
    assert page.told == [{"kind": "error", "text": "The ledger was closed: run the cell again.", "running": False}]
    assert page.heard == 0


def test_senseless_messages_do_nothing(app: ai.App):
    made, page = opened(show)
    for said in ({}, {"kind": "run"}, {"kind": "run", "values": 5}, {"kind": "variables", "name": 5}, {"kind": "x"}):
        made._heard(said)
    assert put_in(made, page, what=None)["problems"] == {"what": "This is needed."}
    assert put_in(made, page, what={"a": 1})["problems"] == {"what": "This is needed."}
