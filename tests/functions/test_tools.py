"""Functions that a model calls: what is asked first, what it is told, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from typing import Annotated, Any

import pandas as pd
import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.functions.toolbox import Performer
from ipyconvexai.functions.tools import as_text, for_people, tools_of
from ipyconvexai.store.link import KeeperStore
from ipyconvexai.testing import Answer, Endpoint, Received, ToolCall
from tests.functions.talking import mutate_as, shown
from tests.store.helpers import wait_for

FIRST = "What is the weather?"


def weather(city: str, days: int = 1) -> str:
    """The weather in a city."""
    return f"rain in {city} for {days}"


def call(name: str = "weather", arguments: Any = None, **more: Any) -> ToolCall:
    return ToolCall(name, {"city": "Oslo"} if arguments is None else arguments, **more)


class Talk:
    """A conversation with tools."""

    def __init__(self, app: ai.App, tools: list[Any]) -> None:
        self.app = app
        self.id = str(ai.run("start_conversation", title="a talk"))
        app.functions.give_tools(self.id, tools_of(tools))

    def say(self, text: str = FIRST) -> str:
        return str(ai.run("send_message", conversation_id=self.id, content=text))

    def rows(self) -> list[tuple[str, str, str | None]]:
        return [(each.role, each.status, each.content) for each in shown(self.id)]

    def until(self, *states: str) -> list[ai.Message]:
        """The messages, when they have these roles and states: "tool waiting"."""

        def look() -> Any:
            found = shown(self.id)
            return found if [f"{each.role} {each.status}" for each in found] == list(states) else None

        try:
            return wait_for(look, f"{states}")  # type: ignore[no-any-return]
        except BaseException as error:
            error.add_note(str([(m.role, m.status, m.content, m.error_message) for m in shown(self.id)]))
            raise


def wait_until_done(conversation: str) -> None:
    wait_for(lambda: shown(conversation)[-1].status == "done", "the last answer")


ASKED = ("user done", "assistant done", "tool waiting")
DONE = ("user done", "assistant done", "tool done", "assistant done")


def sent(endpoint: Endpoint, number: int = -1) -> Any:
    return endpoint.calls[number].body["messages"]


def test_it_asks_first_runs_once_allowed_and_the_model_is_told(app: ai.App, endpoint: Endpoint):
    talk = Talk(app, [weather])
    endpoint.reply([Answer("Let me look.", tool_calls=[call(id="a1")]), Answer("It rains.")])
    talk.say()
    message = talk.until(*ASKED)[2]
    assert json.loads(message.tool_call or "") | {"reply": ""} == {
        "id": "a1",
        "name": "weather",
        "arguments": '{"city": "Oslo"}',
        "safe": False,
        "reply": "",
    }
    assert endpoint.count == 1
    assert ai.run("allow_call", message_id=message._id) is True
    assert talk.until(*DONE)[2].content == "rain in Oslo for 1"
    assert ai.run("allow_call", message_id=message._id) is False
    assert talk.rows()[3][2] == "It rains."
    assert sent(endpoint)[1:] == [
        {
            "role": "assistant",
            "content": "Let me look.",
            "tool_calls": [
                {"id": "a1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "a1", "content": "rain in Oslo for 1"},
    ]
    assert endpoint.calls[0].body["tools"] == [ai.tool(weather).declaration]


def test_a_safe_one_runs_at_once_and_several_are_one_round(app: ai.App, endpoint: Endpoint):
    talk = Talk(app, [ai.tool(weather, safe=True)])
    two = [call(id="a"), call(arguments={"city": "Rome", "days": 2}, id="b")]
    endpoint.reply([Answer(tool_calls=two), Answer("Both.")])
    talk.say()
    found = talk.until("user done", "assistant done", "tool done", "tool done", "assistant done")
    assert [message.content for message in found[2:4]] == ["rain in Oslo for 1", "rain in Rome for 2"]
    assert endpoint.count == 2
    assert [message["role"] for message in sent(endpoint)] == ["user", "assistant", "tool", "tool"]


def test_what_is_not_allowed_is_not_run(app: ai.App, endpoint: Endpoint):
    ran: list[str] = []

    def keep(text: str) -> None:
        ran.append(text)

    talk = Talk(app, [keep])
    endpoint.reply([Answer(tool_calls=[call("keep", {"text": "x"})]), Answer("As you like.")])
    talk.say()
    message = talk.until(*ASKED)[2]
    assert ai.run("deny_call", message_id=message._id, reason="Not today.") is True
    talk.until("user done", "assistant done", "tool canceled", "assistant done")
    assert ran == []
    assert sent(endpoint)[-1]["content"] == "This call was not allowed by the user. Not today."


def test_who_says_something_else_does_not_allow_it(app: ai.App, endpoint: Endpoint):
    talk = Talk(app, [weather])
    endpoint.reply([Answer(tool_calls=[call(id="a")]), Answer("Fine.")])
    talk.say()
    talk.until(*ASKED)
    talk.say("Never mind.")
    talk.until("user done", "assistant done", "tool canceled", "user done", "assistant done")
    assert [message["role"] for message in sent(endpoint)] == ["user", "assistant", "tool", "user"]
    assert endpoint.count == 2


def test_what_raises_is_told(app: ai.App, endpoint: Endpoint):
    def fail(x: int) -> None:
        raise ValueError("no such thing: sk-test-0123456789abcdef")

    talk = Talk(app, [ai.tool(fail, safe=True)])
    endpoint.reply([Answer(tool_calls=[call("fail", {"x": 1})]), Answer("Oh.")])
    talk.say()
    found = talk.until("user done", "assistant done", "tool failed", "assistant done")
    assert (found[2].error_code, found[2].content) == ("ValueError", None)
    assert sent(endpoint)[-1]["content"].startswith("Error: ValueError: no such thing: ")
    assert "sk-test" not in str(sent(endpoint))


@pytest.mark.parametrize("kind", ["thread", "coroutine", "exit"])
def test_what_never_returns_or_exits_is_given_up(app: ai.App, endpoint: Endpoint, kind: str):
    forever = threading.Event()

    def hang() -> None:
        forever.wait()

    async def wait() -> None:
        await asyncio.Event().wait()

    def leave() -> None:
        raise SystemExit(3)

    fn: Any = {"thread": hang, "coroutine": wait, "exit": leave}[kind]
    talk = Talk(app, [ai.tool(fn, safe=True, timeout=0.3, name="hang")])
    endpoint.reply([Answer(tool_calls=[call("hang", "")]), Answer("Pity.")])
    talk.say()
    found = talk.until("user done", "assistant done", "tool failed", "assistant done")
    assert found[2].error_code == ("exited" if kind == "exit" else "function_timeout")
    forever.set()


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (call("no_such_tool"), "there is no tool 'no_such_tool'"),
        (call("<img src=x onerror=alert(1)>"), "there is no tool"),
        (call("weather", "{broken"), "not JSON"),
        (call("weather", "[1]"), "JSON object was expected"),
        (call("weather", {"city": 7}), "str was expected"),
        (call("weather", {"town": "Oslo"}), "missing the required field `city`"),
        (call("weather", {"city": "x" * 200_000}), "characters"),
    ],
)
def test_what_cannot_be_called_is_told_and_nobody_is_asked(
    app: ai.App, endpoint: Endpoint, wanted: ToolCall, told: str
):
    talk = Talk(app, [weather])
    endpoint.reply([Answer(tool_calls=[wanted]), Answer("I see.")])
    talk.say()
    talk.until("user done", "assistant done", "tool failed", "assistant done")
    *_, said, outcome = sent(endpoint)
    assert told in outcome["content"]
    function = said["tool_calls"][0]["function"]
    assert isinstance(json.loads(function["arguments"]), dict), "a provider may refuse what it said itself"
    assert function["name"].replace("_", "").replace("-", "").isalnum()


def test_it_must_answer_at_last(app: ai.App, endpoint: Endpoint):
    talk = Talk(app, [ai.tool(weather, safe=True)])
    endpoint.reply(lambda received: Answer("Once more.", tool_calls=[call()]))
    talk.say()
    wait_for(lambda: endpoint.count == 11, "ten rounds and a last answer")
    wait_for(lambda: talk.rows()[-1][:2] == ("assistant", "done"), "the last answer")
    assert [call.body.get("tool_choice") for call in endpoint.calls] == [None] * 10 + ["none"]
    assert [role for role, _, _ in talk.rows()].count("tool") == 10
    talk.say("Again?")
    wait_for(lambda: endpoint.count == 22, "ten more after an own message")


def test_a_call_that_runs_is_stopped_and_the_model_not_asked(app: ai.App, endpoint: Endpoint):
    begun, ended = threading.Event(), threading.Event()

    async def wait() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    talk = Talk(app, [ai.tool(wait, safe=True), weather])
    endpoint.reply([Answer(tool_calls=[call("wait", "{}"), call()]), Answer("Going on.")])
    talk.say()
    assert begun.wait(10)
    message = talk.until("user done", "assistant done", "tool streaming", "tool waiting")[2]
    assert ai.run("cancel_response", message_id=message._id) is True
    stopped = ("user done", "assistant done", "tool canceled", "tool canceled")
    talk.until(*stopped)
    assert ended.wait(10), "it was told to end"
    assert endpoint.count == 1
    ai.run("continue_response", message_id=message._id)
    talk.until(*stopped, "assistant done")
    assert "stopped by the user" in sent(endpoint)[-1]["content"]


def test_retry_edit_and_fork(app: ai.App, endpoint: Endpoint):
    talk = Talk(app, [ai.tool(weather, safe=True)])

    def respond(received: Received) -> Answer:
        last = received.body["messages"][-1]
        return Answer("It rains.") if last["role"] == "tool" else Answer(tool_calls=[call()])

    endpoint.reply(respond)
    talk.say()
    found = talk.until(*DONE)
    again = ai.run("retry_response", message_id=found[3]._id)
    assert str(talk.until(*DONE)[3]._id) == again
    assert endpoint.count == 3, "the call was not run again"
    ai.run("retry_response", message_id=found[1]._id)
    talk.until(*DONE)
    assert endpoint.count == 5
    ai.run("edit_message", message_id=talk.until(*DONE)[0]._id, content="And in Rome?")
    found = talk.until(*DONE)
    for until, roles in ((3, "user assistant tool assistant"), (2, "user assistant tool"), (1, "user assistant")):
        fork = ai.run("fork_conversation", message_id=found[until]._id)
        assert [message.role for message in shown(fork)] == roles.split()
        ai.run("send_message", conversation_id=fork, content="More?")
        wait_until_done(fork)
        given = [message["role"] for message in sent(endpoint)]
        assert given == [*(roles.split() if until > 1 else ["user"]), "user"]
        if until > 1:
            assert sent(endpoint)[1]["tool_calls"][0]["id"] == sent(endpoint)[2]["tool_call_id"]


def test_a_fork_runs_nothing_that_waits(app: ai.App, endpoint: Endpoint):
    talk = Talk(app, [weather])
    endpoint.reply([Answer(tool_calls=[call()]), Answer("Well.")])
    talk.say()
    fork = ai.run("fork_conversation", message_id=talk.until(*ASKED)[2]._id)
    assert [message.status for message in shown(fork)] == ["done", "done", "canceled"]
    talk.until(*ASKED)


def test_who_says_more_while_it_runs_is_answered_once_with_its_result(app: ai.App, endpoint: Endpoint):
    begun, go = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        go.wait(10)
        return "slow result"

    talk = Talk(app, [ai.tool(slow, safe=True)])
    endpoint.reply([Answer(tool_calls=[call("slow", "{}", id="a")]), Answer("Both.")])
    talk.say("one")
    assert begun.wait(10)
    talk.say("two")
    assert app.run(app.functions._run_built_in("ai.generate_response", {"conversation_id": talk.id})) == "", "not yet"
    go.set()
    wait_for(lambda: talk.rows()[-1] == ("assistant", "done", "Both."), "an answer")
    assert [message["role"] for message in sent(endpoint)] == ["user", "assistant", "tool", "user"]
    assert sent(endpoint)[2]["content"] == "slow result"
    assert endpoint.count == 2


def test_who_says_more_while_it_is_written(app: ai.App, endpoint: Endpoint):
    """The call comes after what was said; the model is told of it where it belongs."""
    talk = Talk(app, [ai.tool(weather, safe=True)])
    answer = Answer("word " * 20, tool_calls=[call(id="a")], token_delay=0.03)
    endpoint.reply([answer, Answer("Both.")])
    talk.say("one")
    wait_for(lambda: endpoint.count == 1, "it to begin")
    talk.say("two")
    talk.until("user done", "assistant done", "user done", "assistant done", "tool done")
    assert [message["role"] for message in sent(endpoint)] == ["user", "assistant", "tool", "user"]
    assert endpoint.count == 2


def test_queries_mutations_and_actions_run_as_they_do(app: ai.App, endpoint: Endpoint):
    @ai.query
    def titles(ctx: Any) -> list[str]:
        """Titles of conversations."""
        return [row["title"] for row in ctx.db.sql("SELECT title FROM conversations")]

    @ai.mutation
    def entitle(ctx: Any, title: str) -> str:
        ctx.db.insert(ai.Conversation(title=title))
        return f"{ctx.user_id} did"

    @ai.action
    async def both(ctx: Any) -> list[str]:
        found: list[str] = await ctx.run_query(titles)
        return found

    wanted = [call("entitle", {"title": "made"}), call("titles", ""), call("both", "")]
    talk = Talk(app, [ai.tool(titles, safe=True), ai.tool("entitle", safe=True), ai.tool(both, safe=True)])
    endpoint.reply([*(Answer(tool_calls=[each]) for each in wanted), Answer("Done.")])
    talk.say()
    wait_for(lambda: talk.rows()[-1][2] == "Done.", "all of it")
    given = [content for role, _, content in talk.rows() if role == "tool"]
    assert given == [f"{app.settings.user} did", '["a talk","made"]', '["a talk","made"]']


def test_another_process_cannot_take_what_needs_its_tools(app: ai.App, endpoint: Endpoint):
    """A reply that may call tools here is not begun elsewhere; of a process that is gone nothing stays half way."""
    talk = Talk(app, [weather])
    endpoint.reply([Answer(tool_calls=[call()]), Answer("Well.")])
    talk.say()
    waits = talk.until(*ASKED)[2]
    theirs = [str(ai.run("start_conversation", title=title)) for title in ("one", "other")]
    elsewhere = KeeperStore(app.store.path)  # another session at the keeper, as another process has
    with elsewhere.transaction() as execute:
        insert = (
            "INSERT INTO messages (id, created_at, conversation_id, role, status, session_id, tool_call)"
            " VALUES (uuidv7(), now()::TIMESTAMP, ?, ?, ?, ?, ?) RETURNING id::VARCHAR"
        )
        execute(insert, [theirs[0], "assistant", "pending", elsewhere.session_id, None])
        ((allowed,),) = execute(insert, [theirs[1], "tool", "pending", elsewhere.session_id, waits.tool_call])
    app.run(app.functions._run_built_in("ai.generate_response", {"conversation_id": theirs[0]}))
    app.run(app.functions._run_built_in("ai.run_call", {"message_id": allowed}))
    assert [shown(each)[0].status for each in theirs] == ["pending", "pending"]
    elsewhere.close()
    wait_for(lambda: {shown(each)[0].error_code for each in theirs} == {"interrupted"}, "the keeper to notice")
    assert endpoint.count == 1
    talk.until(*ASKED)  # what waits for a person waits on


KILLED = """
import os, signal, sys
import ipyconvexai as ai
from ipyconvexai.functions.tools import tools_of
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
with ai.connect(sys.argv[1], model="openai:gpt-4o-mini") as app:
    app.functions.give_tools(sys.argv[2], tools_of([ai.tool(die, safe=True)]))
    ai.run("send_message", conversation_id=sys.argv[2], content="Go")
    signal.pause()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_process_that_is_killed_while_a_tool_runs(app: ai.App, endpoint: Endpoint):
    """The call is over, is not run again, and one can go on."""
    talk = str(ai.run("start_conversation", title="killed"))
    endpoint.reply([Answer(tool_calls=[call("die", "{}")]), Answer("Let us go on.")])
    killed = subprocess.run([sys.executable, "-c", KILLED, app.store.path, talk], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    wait_for(lambda: shown(talk)[-1].status == "failed", "the keeper to notice")
    assert [message.status for message in shown(talk)] == ["done", "done", "failed"]
    assert endpoint.count == 1
    ai.run("continue_response", message_id=shown(talk)[-1]._id)
    wait_until_done(talk)
    assert sent(endpoint)[-1]["content"] == "Error: the process that ran it ended"


def test_an_app_that_is_closed_while_a_tool_runs_closes(app: ai.App, endpoint: Endpoint):
    begun, forever = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        forever.wait()

    talk = Talk(app, [ai.tool(hang, safe=True)])
    endpoint.reply(Answer(tool_calls=[call("hang", "{}")]))
    talk.say()
    assert begun.wait(10)
    app.close()
    forever.set()
    with ai.connect(app.store.path):
        wait_for(lambda: shown(talk.id)[-1].status == "failed", "what it ran to be given up")


def test_without_its_tool_it_can_be_skipped_only(app: ai.App, endpoint: Endpoint):
    talk = Talk(app, [weather])
    endpoint.reply([Answer(tool_calls=[call()]), Answer("Well.")])
    talk.say()
    waits = talk.until(*ASKED)[2]
    app.functions.give_tools(talk.id, {})  # as in a new kernel
    with pytest.raises(errors.InputError, match="not in this process") as refused:
        ai.run("allow_call", message_id=waits._id)
    assert "tools=" in refused.value.cure
    app.functions.give_tools(talk.id, tools_of([weather]))  # the panel is opened again with it
    ai.run("allow_call", message_id=waits._id)
    talk.until(*DONE)


def test_calls_of_others_are_nobodys_business(app: ai.App, endpoint: Endpoint):
    talk = Talk(app, [weather])
    endpoint.reply(Answer(tool_calls=[call()]))
    talk.say()
    waits = talk.until(*ASKED)[2]
    for name in ("allow_call", "deny_call", "continue_response"):
        with pytest.raises(errors.NotFoundError):
            mutate_as(app, "mallory", name, message_id=waits._id)
        with pytest.raises(errors.InputError, match="no call"):
            ai.run(name, message_id=talk.until(*ASKED)[0]._id)
    talk.until(*ASKED)


def test_a_long_result_does_not_push_the_question_out(app: ai.App, endpoint: Endpoint):
    def much() -> str:
        return "word " * 3000

    talk = Talk(app, [ai.tool(much, safe=True)])
    endpoint.reply([*(Answer(tool_calls=[call("much", "{}")]) for _ in range(3)), Answer("Enough.")])
    talk.say("How much?")
    wait_for(lambda: talk.rows()[-1][2] == "Enough.", "all of it")
    assert sent(endpoint)[0] == {"role": "user", "content": "How much?"}
    assert len(json.dumps(sent(endpoint))) < 7000 * 4
    assert "cut" in sent(endpoint)[-1]["content"]


def test_a_cell_that_goes_on_with_it_sends_no_calls(app: ai.App, endpoint: Endpoint):
    talk = Talk(app, [ai.tool(weather, safe=True)])
    endpoint.reply([Answer(tool_calls=[call()]), Answer("It rains."), Answer("Yes.")])
    talk.say()
    talk.until(*DONE)
    app.generate("Really?", conversation=talk.id)
    assert [message["role"] for message in sent(endpoint)] == ["user", "assistant", "user"]


# ---------------------------------------------------------------------------------------------- what can be one
def test_arguments_as_people_read_them():
    """A value cannot pass for another argument."""
    assert (
        for_people('{"a": "x\\",\\n  \\"safe\\": true", "b": 1}')
        == '{\n  "a": "x\\",\\n  \\"safe\\": true",\n  "b": 1\n}'
    )
    assert for_people('{"sql": "SELECT 1"}') == '{\n  "sql": "SELECT 1"\n}'
    long = "SELECT 1\n" * 20
    assert for_people(json.dumps({"sql": long})) == f'"sql":\n{long}'
    assert for_people("{broken") == "{broken"


def test_hints_become_a_schema():
    def find(text: Annotated[str, "what"], most: int = 5, *, exact: bool = False, **more: float) -> None:
        """Finds.

        Much."""

    made = ai.tool(find)
    assert (made.name, made.description, made.safe) == ("find", "Finds.\n\nMuch.", False)
    assert made.parameters["required"] == ["text"]
    assert made.parameters["additionalProperties"] == {"type": "number"}
    types = {name: (each.get("type"), each.get("default")) for name, each in made.parameters["properties"].items()}
    assert types == {"text": ("string", None), "most": ("integer", 5), "exact": ("boolean", False)}
    assert "any" in ai.tool(lambda any: 1, name="f").parameters["properties"], "without a hint anything fits"


class Plain:
    def method(self, x: int) -> int:
        return x


def takes_many(*args: int) -> None: ...


def takes_a_frame(df: pd.DataFrame) -> None: ...


@pytest.mark.parametrize(
    "thing",
    [lambda: 1, 3, "no_such_function", takes_many, takes_a_frame, print, Plain, Plain(), None],
    ids="lambda number name many frame builtin class object none".split(),
)
def test_what_cannot_be_a_tool_says_why(thing: Any):
    with pytest.raises(errors.Error) as refused:
        tools_of([thing])
    assert refused.value.cure


def test_methods_and_names():
    assert ai.tool(Plain().method).name == "method"
    assert ai.tool("load_messages").name == "ai_load_messages"
    with pytest.raises(errors.InputError, match="two tools"):
        tools_of([weather, ai.tool(weather)])
    with pytest.raises(errors.InputError, match="no list"):
        tools_of("weather")
    with pytest.raises(errors.InputError, match="seconds"):
        ai.tool(weather, timeout=-1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        (None, "done; there is no result"),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        (pd.DataFrame({"a": [1, 2], "b": ["x", None]}), "a,b\n1,x\n2,\n"),
        ("half \ud800", "half \ufffd"),
    ],
    ids=repr,
)
def test_results_as_the_model_is_told(value: Any, text: str):
    assert as_text(value).strip() == text.strip()


def test_results_hold_no_key(endpoint: Endpoint):
    from ipyconvexai.settings import remember_secret

    remember_secret("sk-test-0123456789abcdef")
    for value in ("sk-test-0123456789abcdef", {"key": "sk-test-0123456789abcdef"}):
        assert "0123456789" not in as_text(value)


def test_a_change_while_a_reply_is_tried_has_it_tried_again(app: ai.App, endpoint: Endpoint):
    """It was not its turn when it was looked at, and is by now."""
    talk = str(ai.run("start_conversation", title="a talk"))
    tried: list[str] = []
    begun, go = threading.Event(), threading.Event()

    async def run(name: str, args: Any) -> None:
        tried.append(name)
        begun.set()
        await asyncio.to_thread(go.wait, 10)

    performer = Performer(app.store, app.loop, run)
    with app.store.transaction() as execute:
        execute(
            "INSERT INTO messages (id, created_at, conversation_id, role, status, session_id)"
            " VALUES (uuidv7(), now()::TIMESTAMP, ?, 'assistant', 'pending', ?)",
            [talk, app.store.session_id],
        )
    performer.start()
    assert begun.wait(10)
    assert performer._end is not None
    performer._end()  # from here on it hears of this change only
    performer._notice({"messages"})
    wait_for(lambda: performer._again, "it to be noticed")
    go.set()
    wait_for(lambda: len(tried) >= 2, "another try")
    assert set(tried) == {"ai.generate_response"}
    app.run(performer.stop())


def test_results_are_bounded_and_hold_no_environment():
    import os

    assert len(as_text("x" * 10_000_000)) < 17_000
    assert len(as_text(pd.DataFrame({"a": range(1_000_000)}))) < 17_000
    with pytest.raises(errors.ResultError, match="environment"):
        as_text(dict(os.environ))
    assert "object" in as_text(object())
