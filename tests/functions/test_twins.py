"""The functions that come with the package: texts, chats, documents, and how they are found."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ipyconvexai as ai
from ipyconvexai import actions
from ipyconvexai.actions import documents, messages, replies
from ipyconvexai.functions.outside import listing, public
from ipyconvexai.functions.registry import registry
from ipyconvexai.functions.service import Functions
from ipyconvexai.testing import Answer, Endpoint, Fault
from tests.functions.talking import act_as, finished, mutate_as, over, row, shown, streaming
from tests.store.helpers import child, finish, kill, line_of


@pytest.fixture
def conversation(app: ai.App):
    return ai.run("start_conversation", title="a talk")


def say(conversation: str, content: str):
    return ai.run("send_message", conversation_id=conversation, content=content)


def contents(conversation: str) -> list[str | None]:
    return [message.content for message in shown(conversation)]


def asked(endpoint: Endpoint, number: int = -1) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in endpoint.calls[number].body["messages"]]


@ai.mutation
def insert(ctx: Any, content: str):
    return ctx.db.insert(ai.Document(content=content))


@ai.mutation
def add(ctx: Any, conversation_id: ai.Id[ai.Conversation], role: str, content: str | None, status: str):
    return ctx.db.insert(ai.Message(conversation_id=conversation_id, role=role, content=content, status=status))


@ai.query
def document(ctx: Any, document_id: ai.Id[ai.Document]):
    return ctx.run_query(documents.get, document_id=document_id)


# ---------------------------------------------------------------------------------------------- names
def test_they_have_names_of_their_own_and_the_private_pieces_are_internal():
    access = {name: access for name, _, _, access, _ in listing() if name.startswith("ai.")}
    assert {name.removeprefix("ai.") for name, access in access.items() if access == "public"} == {
        "allow_call",
        "cancel_response",
        "check_rate_limit",
        "configure_conversation",
        "continue_response",
        "deny_call",
        "generate_text",
        "generate_with_chef",
        "generate_with_rate_limit",
        "load_messages",
        "process_with_ai",
        "safe_generate",
        "send_message",
        "delete_conversation",
        "edit_message",
        "fork_conversation",
        "list_conversations",
        "rename_conversation",
        "retry_response",
        "start_conversation",
    }
    assert all(description for name, *_, description in listing() if name.startswith("ai."))


def test_ones_own_function_of_the_same_name_comes_first():
    @ai.action
    async def generate_text(ctx: Any) -> str:
        return "mine"

    assert registry.find("generate_text").handler is generate_text
    assert registry.find("ai.generate_text").handler is actions.generate_text
    assert public("send_message").handler is actions.send_message


BY_NAME = """
import ipyconvexai as ai
assert "ipyconvexai.actions" not in sys.modules
with ai.connect(sys.argv[1], model="openai:gpt-4o-mini"):
    print(ai.run("generate_text", prompt="by name"))
"""


def test_they_are_found_by_name_in_a_new_process(app: ai.App):
    assert finish(child(BY_NAME, app.store.path)) == "echo: by name\n"


# ---------------------------------------------------------------------------------------------- texts
def test_a_text_for_a_prompt(app: ai.App, endpoint: Endpoint):
    assert ai.run(actions.generate_text, prompt="hello") == "echo: hello"
    endpoint.reply(Fault(400, message="too odd"))
    with pytest.raises(ai.errors.ProviderError, match="too odd"):
        ai.run(actions.generate_text, prompt="hello")


def test_what_comes_with_chef(app: ai.App, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ai.errors.ConfigurationError, match="CONVEX_OPENAI"):
        ai.run(actions.generate_with_chef, prompt="hello")
    monkeypatch.setenv("CONVEX_OPENAI_BASE_URL", endpoint.url)
    monkeypatch.setenv("CONVEX_OPENAI_API_KEY", "chef-key-0123456789")
    assert ai.run(actions.generate_with_chef, prompt="hello") == "echo: hello"
    assert endpoint.calls[-1].headers["authorization"] == "Bearer chef-key-0123456789"
    assert app.store.read("SELECT provider, model FROM calls") == [("chef", "gpt-4o-mini")]


def test_safe_means_what_a_provider_does_and_not_what_is_to_be_mended_here(app: ai.App, endpoint: Endpoint):
    good = ai.run(actions.safe_generate, prompt="hello")
    assert (good["success"], good["text"], good["finish_reason"]) == (True, "echo: hello", "stop")
    with pytest.raises(ai.errors.EmptyPromptError):
        ai.run(actions.safe_generate, prompt=" ")
    assert endpoint.count == 1


# ---------------------------------------------------------------------------------------------- documents
def test_a_document_is_read_summarized_and_keeps_the_summary(app: ai.App, endpoint: Endpoint):
    endpoint.reply("It is about whales.")
    key = ai.run(insert, content="Call me Ishmael.")
    assert ai.run("process_with_ai", document_id=key) == "It is about whales."
    assert asked(endpoint) == [("system", documents.INSTRUCTIONS), ("user", "Call me Ishmael.")]
    found = ai.run(document, document_id=key)
    assert (found.content, found.summary) == ("Call me Ishmael.", "It is about whales.")


def test_without_a_document_nothing_is_sent(app: ai.App, endpoint: Endpoint):
    key = ai.run(insert, content="x")
    missing = "5" * 8 + "-0000-5000-8000-" + "0" * 12
    with pytest.raises(ai.errors.NotFoundError, match="no document"):
        ai.run("process_with_ai", document_id=missing)
    with pytest.raises(ai.errors.ArgumentsError):
        ai.run("process_with_ai", document_id="seven")
    assert (endpoint.count, ai.run(document, document_id=key).summary) == (0, None)


# ---------------------------------------------------------------------------------------------- limits
def test_each_user_has_a_limit_of_their_own(app: ai.App):
    for _ in range(10):
        act_as(app, "ann", actions.generate_with_rate_limit, prompt="x")
    with pytest.raises(ai.errors.LimitError):
        act_as(app, "ann", actions.generate_with_rate_limit, prompt="x")
    assert act_as(app, "bob", actions.generate_with_rate_limit, prompt="x") == "echo: x"


def test_a_recorded_request_is_undone_with_its_transaction(app: ai.App):
    @ai.mutation
    def record_and_fail(ctx: Any) -> None:
        ctx.run_mutation(actions.record_request)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        ai.run(record_and_fail)
    assert ai.run("check_rate_limit") == {"allowed": True, "left": 10, "retry_after": None}


# ---------------------------------------------------------------------------------------------- conversations
def test_question_and_answer(app: ai.App, endpoint: Endpoint):
    conversation = ai.run("start_conversation", title="whales", system="Be brief.")
    reply = say(conversation, "hello")
    found = over(app, reply)
    assert (found["status"], found["finish_reason"]) == ("done", "stop")
    assert contents(conversation) == ["hello", "echo: hello"]
    assert asked(endpoint) == [("system", "Be brief."), ("user", "hello")]
    sql = "SELECT id::VARCHAR, conversation_id::VARCHAR, source, user_id FROM calls"
    assert app.store.read(sql) == [(found["request_id"], conversation, "schedule", app.settings.user)]


def test_an_empty_message_is_none(app: ai.App, conversation: str):
    with pytest.raises(ai.errors.EmptyPromptError):
        say(conversation, " \n")
    assert contents(conversation) == []
    assert app.store.read("SELECT count(*) FROM scheduled_functions") == [(0,)]


def test_the_reply_is_for_who_asked(app: ai.App, endpoint: Endpoint):
    theirs = mutate_as(app, "ann", actions.start_conversation, title="ann's")
    reply = mutate_as(app, "ann", actions.send_message, conversation_id=theirs, content="hello")
    assert over(app, reply)["content"] == "echo: hello"
    assert app.store.read("SELECT user_id FROM calls") == [("ann",)]
    with pytest.raises(ai.errors.NotFoundError):
        shown(theirs)


def test_they_and_generate_see_each_others_messages(app: ai.App, endpoint: Endpoint):
    reply = ai.generate("one", conversation="a talk")
    conversation = str(reply.conversation_id)
    assert contents(conversation) == ["one", "echo: one"]
    over(app, say(conversation, "two"))
    assert asked(endpoint) == [("user", "one"), ("assistant", "echo: one"), ("user", "two")]
    ai.generate("three", conversation="a talk")
    assert [text for _, text in asked(endpoint)] == ["one", "echo: one", "two", "echo: two", "three"]


def test_what_failed_or_is_empty_does_not_go_along(app: ai.App, endpoint: Endpoint, conversation: str):
    for role, content, status in (
        ("user", "one", "done"),
        ("assistant", "", "done"),  # called a tool
        ("assistant", "half a sen", "failed"),
        ("assistant", "stopped he", "canceled"),
        ("assistant", None, "failed"),
    ):
        ai.run(add, conversation_id=conversation, role=role, content=content, status=status)
    over(app, say(conversation, "two"))
    wanted = [("user", "one"), ("assistant", "stopped he"), ("user", "two")]
    assert asked(endpoint) == wanted
    ai.generate("three", conversation=conversation)
    assert asked(endpoint)[:3] == wanted


def test_less_goes_along_where_the_model_takes_less(app: ai.App, endpoint: Endpoint, conversation: str):
    def short(call: Any) -> Any:
        if call.input_words > 1000:
            return Fault(400, code="context_length_exceeded", message="maximum context length is 1000 tokens")
        return "that fits"

    endpoint.reply(short)
    for count in range(10):
        ai.run(add, conversation_id=conversation, role="user", content=f"{count} " + "word " * 400, status="done")
    found = over(app, say(conversation, "and now?"))
    assert (found["status"], found["content"]) == ("done", "that fits")
    assert [len(call.body["messages"]) for call in endpoint.calls] == [11, 6, 3]
    assert asked(endpoint)[-1] == ("user", "and now?")


def test_what_never_fits_is_told(app: ai.App, endpoint: Endpoint, conversation: str):
    endpoint.reply(Fault(400, code="context_length_exceeded", message="maximum context length is 1 token"))
    assert over(app, say(conversation, "hello"))["status"] == "failed"
    assert endpoint.count == 1  # there is no less than one message


# ---------------------------------------------------------------------------------------------- stopping
def test_a_reply_that_waits_is_never_begun(app: ai.App, endpoint: Endpoint, conversation: str):
    endpoint.hold()
    one, two, three = (say(conversation, text) for text in ("one", "two", "three"))
    endpoint.wait(lambda double: double.in_flight == 1)
    assert ai.run("cancel_response", message_id=two)
    endpoint.release()
    assert over(app, three)["content"] == "echo: three"
    assert (row(app, two)["status"], row(app, two)["error_message"]) == ("canceled", f"stopped by {app.settings.user}")
    assert [text for _, text in asked(endpoint)] == ["one", "echo: one", "two", "three"]
    assert endpoint.count == 2
    assert not ai.run("cancel_response", message_id=one)
    assert row(app, one)["status"] == "done"


def test_the_next_is_begun_when_one_was_stopped_or_failed(app: ai.App, endpoint: Endpoint, conversation: str):
    endpoint.reply([Answer("never more than this", cut_after=1, cut="stall"), Fault(400), "three"])
    one = say(conversation, "one")
    streaming(app, one, "never")
    two, three = say(conversation, "two"), say(conversation, "three")
    assert ai.run("cancel_response", message_id=one)
    assert over(app, three)["content"] == "three"
    assert [row(app, key)["status"] for key in (one, two)] == ["canceled", "failed"]
    assert row(app, one)["content"] == "never"


def test_a_conversation_or_message_that_is_gone(app: ai.App, conversation: str):
    missing = conversation[:-1] + ("0" if conversation[-1] != "0" else "1")
    with pytest.raises(ai.errors.NotFoundError):
        say(missing, "hello")
    reply = say(conversation, "hello")
    over(app, reply)
    gone = reply[:-1] + ("0" if reply[-1] != "0" else "1")
    with pytest.raises(ai.errors.NotFoundError):
        ai.run("cancel_response", message_id=gone)
    with pytest.raises(ai.errors.NotFoundError):
        ai.run("load_messages", conversation_id=conversation, before=gone)
    with pytest.raises(ai.errors.ArgumentsError, match="conversation_id"):  # an id of another table
        say(reply, "hello")


# ---------------------------------------------------------------------------------------------- other processes
TALK = """
import ipyconvexai as ai
ai.connect(sys.argv[1], model="openai:gpt-4o-mini")
for text in ("one", "two"):
    print(ai.run("send_message", conversation_id=sys.argv[2], content=text), flush=True)
time.sleep(60)
"""


@pytest.fixture
def idle(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ai.App]:
    """An app that runs no jobs until ``works_here`` is set."""
    monkeypatch.setattr(Functions, "works_here", False)
    with ai.connect(str(tmp_path / "ledger.duckdb"), model="openai:gpt-4o-mini") as opened:
        yield opened


def test_a_killed_process_fails_its_reply_and_another_answers_what_waits(idle: ai.App, endpoint: Endpoint):
    app = idle
    endpoint.reply([Answer("it never ends", cut_after=2, cut="stall"), "two"])
    conversation = ai.run("start_conversation", title="a talk")
    talking = child(TALK, app.store.path, conversation)
    try:
        one, two = line_of(talking), line_of(talking)
        streaming(app, one, "it never")
        finished(app, "ai.generate_response", 1)  # the second one's: it is not its turn
    finally:
        talking.send_signal(signal.SIGKILL)
        kill([talking])
    found = over(app, one)
    assert (found["status"], found["error_code"], found["content"]) == ("failed", "interrupted", "it never")
    app.functions.works_here = True
    contents(conversation)  # whoever uses functions runs their jobs
    assert over(app, two)["content"] == "two"
    assert endpoint.count == 2  # what may have been billed is not asked for again


def test_an_answer_that_takes_too_long_is_told_as_that(app: ai.App, endpoint: Endpoint, conversation: str):
    @ai.action(timeout=0.5)
    async def hurry(ctx: Any) -> str:
        message_id = await ctx.run_mutation(replies.begin_response, conversation_id=conversation)
        async with ctx.stream(message_id) as out:
            return str(await out.generate("x", timeout=60))

    endpoint.reply(Answer("it never ends", cut_after=2, cut="stall"))
    key = ai.run(add, conversation_id=conversation, role="assistant", content=None, status="pending")
    with pytest.raises(ai.errors.FunctionTimeoutError):
        ai.run(hurry)
    assert (row(app, key)["status"], row(app, key)["error_code"]) == ("failed", "function_timeout")
    assert row(app, key)["content"] == "it never"


def test_estimates_of_tokens_are_of_bytes():
    assert messages._how_many_fit([ai.Message(conversation_id="0" * 32, role="user", content="猫" * 4)] * 3, 14) == 2
