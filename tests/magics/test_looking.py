"""``%ai usage``, ``log``, ``show``, ``why`` and ``diff`` over a ledger of real and of hostile calls."""

from __future__ import annotations

import datetime
import json
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import html5lib
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.application import app
from ipyconvexai.ids import new_id
from ipyconvexai.notebook import looking, usage
from ipyconvexai.notebook.exchanges import messages_of, parameters_of, tool_calls_of
from ipyconvexai.notebook.searching import Search, find, read_options
from ipyconvexai.notebook.session import Alias, Session, of_shell
from ipyconvexai.records import searching as records_searching
from ipyconvexai.store.ledger import Intent, Outcome, utc_now
from ipyconvexai.testing import Answer, Fault
from tests.magics.conftest import Page, Run, Scripted

PAYLOADS = (Path(__file__).parents[1] / "data" / "xss-payloads.txt").read_text(encoding="utf-8").split("\n")
TAGS = {
    "DOCUMENT_FRAGMENT", "table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td",
    "div", "p", "strong", "em", "pre", "details", "summary", "span", "img",
}  # fmt: skip
HOSTILE = "<script>alert(1)</script> </pre></details><img src=x onerror=alert(2)> \x1b[31m $x$ \u202e"
Say = Callable[[str], bool]


@pytest.fixture
def session(shell: InteractiveShell, endpoint: Scripted) -> Session:
    return of_shell(shell)


@pytest.fixture
def say(session: Session) -> Say:
    """Runs the line behind ``%ai`` if one of these commands is meant."""

    def command(line: str) -> bool:
        for pattern, function in (*looking.COMMANDS, *usage.COMMANDS):
            if match := pattern.fullmatch(line):
                function(session, *match.groups())
                return True
        return False

    return command


def judged(html: str) -> Any:
    """The tree, when nothing of what was shown became markup."""
    tree = html5lib.parseFragment(html, namespaceHTMLElements=False)
    assert {element.tag for element in tree.iter()} <= TAGS
    assert {name for element in tree.iter() for name in element.attrib} <= {
        "class", "style", "src", "alt", "width", "height", "colspan",
    }  # fmt: skip
    assert all(image.attrib["src"].startswith("data:image/png;base64,") for image in tree.iter("img"))
    assert "\x1b" not in html
    assert "\u202e" not in html
    return tree


def texts(tree: Any, tag: str) -> list[str]:
    return ["".join(element.itertext()) for element in tree.iter(tag)]


def intent(**fields: Any) -> Intent:
    body = fields.get("body", '{"model":"m","messages":[{"role":"user","content":"Why?"}]}')
    plain: dict[str, Any] = {
        "id": new_id(), "attempt": 1, "retry_of": None, "sent_at": utc_now(), "provider": "openai", "model": "gpt-x",
        "endpoint": "chat/completions", "base_url": "https://api.example/v1", "stream": False, "cache_key": new_id(),
        "body": body, "body_bytes": None, "body_size": len(body or ""), "user_id": "me", "source": "magic",
        "notebook": None, "cell_id": None, "conversation_id": None, "batch_id": None,
        "session_id": app().store.session_id,
    }  # fmt: skip
    return Intent(**plain | fields)


def record(answer: dict[str, Any] | None = None, **fields: Any) -> str:
    """Writes a call as the corridor does; gives its id."""
    row = intent(**fields)
    app().records.add("requests", Intent._fields, [tuple(row)])
    if answer is not None:
        plain: dict[str, Any] = {"status": "ok", "http_status": 200, "text": "Because."}
        outcome = Outcome(request_id=row.id, received_at=utc_now(), **plain | answer)
        app().records.add("responses", Outcome._fields, [tuple(outcome)])
    return row.id


def asked(text: str, **more: Any) -> str:
    return json.dumps({"model": "gpt-x", "messages": [{"role": "user", "content": text}], **more}, ensure_ascii=False)


def found(text: str | None = None, **options: Any) -> list[str]:
    """The questions that a search finds."""
    return [row[3] for row in find(app().store, Search(text, **options))]


# --------------------------------------------------------------------------------------------- the lines
@pytest.mark.parametrize(
    "line",
    [
        "why is the sky blue", "why not", "show me a plan", "show face", "show added", "show beef recipes",
        "show 2024 as roman", "diff between tcp and udp", "usage of the subjunctive", "usage by cats of mats",
        "log of 8 to base 2", "log in to a server", "log base 2 of 1024", "log the sky is blue, why?", "whyever",
        "logs", "showing 12345678", "diff 12345678 87654321 please",
    ],
)  # fmt: skip
def test_sentences_stay_questions(say: Say, line: str):
    assert not say(line)


@pytest.mark.parametrize(
    "line",
    [
        "show", "show --all", "diff", "diff 12345678", "diff -u a b", "why -v", "usage -b model", "log --statsu ok",
        "log --status fine", "log --since yesterday", "log -n 0", "log -n many", "log -n 1001", "log --model",
        "log --since", f"log {'x' * 501}", "log --since 999999w",
    ],
)  # fmt: skip
def test_what_is_mistyped_says_how(say: Say, line: str):
    with pytest.raises(UsageError, match="%ai"):
        say(line)


def test_options_of_the_log():
    now = datetime.datetime(2026, 11, 20, 12)
    assert read_options("", now) == Search()
    assert read_options("blue sky -n 5 --status error", now) == Search("blue sky", "error", None, None, 5)
    assert read_options('"blue  sky" --model=gpt', now).text == "blue  sky"
    assert read_options("--since 3d", now).since == datetime.datetime(2026, 11, 17, 12)
    for age in ("--since 90m", "--since=90min", "--since '90 m'"):
        assert read_options(age, now).since == datetime.datetime(2026, 11, 20, 10, 30)
    assert read_options("--since 90m", now).since == datetime.datetime(2026, 11, 20, 10, 30)
    assert read_options("--since 2026-11-01", now).since == datetime.datetime(2026, 11, 1)
    assert read_options("--since 2026-11-01T02:00+02:00", now).since == datetime.datetime(2026, 11, 1)
    assert read_options("-1 is odd", now).text == "-1 is odd"


# --------------------------------------------------------------------------------------------- usage
@pytest.mark.parametrize("by", ["model", "day", "notebook", "user", "provider", "source", "status"])
def test_usage_is_a_chart_with_its_table(say: Say, page: Page, by: str):
    record({"cost_usd": 0.25, "input_tokens": 5, "output_tokens": 7}, model=HOSTILE)
    record({"cost_usd": None}, model=None)
    say(f"usage --by {by}")
    (frame,) = page.frames
    tree = judged(frame["text/html"])
    (image,) = tree.iter("img")
    assert f"cost by {by}, in US dollars" in image.attrib["alt"]
    assert "0.25" in image.attrib["alt"]
    assert texts(tree, "caption") == [f"usage by {by}"]
    assert frame["text/plain"].startswith(f"usage by {by}")
    if by == "model":
        assert "(no model): 0" in image.attrib["alt"]
        assert "<script>alert(1)</script>" in image.attrib["alt"]


def test_usage_in_a_terminal_is_the_table(say: Say, capsys: pytest.CaptureFixture[str]):
    record({"cost_usd": 0.25})
    say("usage")
    say("usage by day")
    printed = capsys.readouterr().out
    assert "usage by model" in printed
    assert "usage by day" in printed
    assert "img" not in printed


def test_days_without_calls_are_there_and_in_order(say: Say, page: Page):
    for day, cost in ((5, 0.5), (1, 0.25)):
        record({"cost_usd": cost}, sent_at=datetime.datetime(2026, 3, day, 23, 59))
    say("usage --by day")
    alt = next(judged(page.last["text/html"]).iter("img")).attrib["alt"]
    assert alt.endswith("2026-03-01: 0.25; 2026-03-02: 0; 2026-03-03: 0; 2026-03-04: 0; 2026-03-05: 0.5.")


def test_few_groups_and_tokens_where_no_cost_is_known(say: Say, page: Page):
    for number in range(1, 16):
        record({"input_tokens": number, "output_tokens": 0}, model=f"m{number}")
    say("usage")
    alt = next(judged(page.last["text/html"]).iter("img")).attrib["alt"]
    assert alt.startswith("Bar chart: tokens by model, in tokens. m15: 15; m14: 14;")
    assert alt.endswith("m5: 5; 4 others: 10.")


def test_calls_where_nothing_is_counted(say: Say, page: Page):
    record({"status": "error"})
    say("usage --by status")
    assert "calls by status, in calls. error: 1." in page.last["text/html"]


def test_no_calls_no_chart(say: Say, page: Page, capsys: pytest.CaptureFixture[str]):
    say("usage")
    say("log")
    assert page.frames == []
    assert capsys.readouterr().out == "No call is recorded yet.\n" * 2
    with pytest.raises(errors.InputError, match="moon"):
        say("usage --by moon")


# --------------------------------------------------------------------------------------------- log
def test_the_log_shows_calls_as_they_were(run: Run, say: Say, endpoint: Scripted, page: Page):
    endpoint.scripted["boom"] = Fault(500, message="out of order")
    run("%%ai\nFirst question")
    run("%%ai\nboom")
    say("log")
    tree = judged(page.last["text/html"])
    cells = texts(tree, "td")
    assert [cells[3], cells[12]] == ["boom", "First question"], "newest first"
    assert cells[2] == "error"
    assert "out of order" in cells[4]
    assert "+" in cells[14]
    short = cells[8]
    assert len(short) == 8
    say(f"show {short}")
    assert "boom" in page.last["text/plain"]


def test_what_is_searched(session: Session):
    record({"text": "The Sky"}, body=asked("one"))
    record({"status": "error", "text": None, "error_message": "sky fell"}, body=asked("two"))
    record({}, body=asked("three: a SKY"))
    record({}, body=asked("four"), model="sky-1")
    record(None, body=asked("five: sky, being sent"))
    record({}, body=asked("six"))
    record({"text": None}, body=None)
    assert found("sky") == ["five: sky, being sent", "four", "three: a SKY", "two", "one"]
    assert found("sky", limit=2) == ["five: sky, being sent", "four"]
    assert found("sky", status="error") == ["two"]
    assert found("sky", status="sending") == ["five: sky, being sent"]
    assert found("sky", model="SKY") == ["four"]
    assert found(None, model="Sky-1") == ["four"]
    assert found(None, model="openai:sky-1") == found("sky", model="OpenAI:Sky-1") == ["four"]
    assert found(None, status="error") == ["two"]
    assert found("nowhere") == []
    assert len(found()) == 7


@pytest.mark.parametrize(
    "text",
    [
        'she said "hi"', "back\\slash", "a.b*c", "C:\\new", "naïve café", "模型", "100%", "[x]", "(", "^$|?+", "{name}",
        "tab\there", "two\nlines", "$x$", "--", "'", "-", "\u2028", "💥 boom",
    ],
)  # fmt: skip
@pytest.mark.parametrize("ascii_only", [True, False])
def test_any_text_is_found_as_it_is_written(session: Session, text: str, ascii_only: bool):
    body = json.dumps({"messages": [{"role": "user", "content": f"x {text} y"}]}, ensure_ascii=ascii_only)
    wanted = record({"text": None}, body=body)
    record({"text": "abxc a1b2c"}, body=asked("another"))
    rows = find(app().store, Search(text))
    assert wanted[-8:] in [row[-1] for row in rows]
    if len(text) > 3:
        assert len(rows) == 1


def test_an_answer_with_the_text_is_found_where_the_question_has_none(session: Session):
    record({"text": 'say "Hi",\nthen go'}, body=asked("one"))
    assert found('say "hi", then') == ["one"]


def test_older_calls_are_looked_at_until_there_are_enough(session: Session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(records_searching, "FIRST_LOOK", 2)
    monkeypatch.setattr(records_searching, "GROWTH", 2)
    start = datetime.datetime(2026, 3, 1)
    for number in range(20):
        text = "wanted" if number % 5 == 0 else "other"
        record({}, body=asked(f"{text} {number}"), sent_at=start + datetime.timedelta(days=number))
    assert found("wanted") == ["wanted 15", "wanted 10", "wanted 5", "wanted 0"]
    assert found("wanted", limit=3) == ["wanted 15", "wanted 10", "wanted 5"]
    assert found("wanted", since=start + datetime.timedelta(days=10)) == ["wanted 15", "wanted 10"]
    assert found("wanted", since=start + datetime.timedelta(days=10, seconds=1)) == ["wanted 15"]
    assert found(None, since=start + datetime.timedelta(days=18)) == ["other 19", "other 18"]


def test_calls_of_one_instant_are_all_found(session: Session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(records_searching, "FIRST_LOOK", 2)
    for number in range(9):
        record({}, body=asked(f"wanted {number}"), sent_at=datetime.datetime(2026, 3, 1))
    assert len(found("wanted")) == 9


BODIES = [
    (asked("plain"), "plain"),
    (json.dumps({"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]}), "one"),
    (json.dumps({"messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, {"image_url": {}}]}]}),
     "see"),
    (json.dumps({"input": "embed me"}), "embed me"),
    (json.dumps({"input": [{"role": "user", "content": [{"type": "input_text", "text": "yo"}]}]}), "yo"),
    (json.dumps({"input": ["a", "b"]}), '["a","b"]'),
    (json.dumps({"prompt": "draw"}), "draw"),
    ("no JSON", "(chat/completions, 7 bytes)"),
    ("[1]", "(chat/completions, 3 bytes)"),
    (r'{"messages":[{"role":"user","content":"\ud800"}]}', "(chat/completions, 49 bytes)"),
    (json.dumps({"messages": [1, None, {"role": "user"}]}), "(chat/completions, 41 bytes)"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "question"), BODIES, ids=range(len(BODIES)))
def test_questions_of_any_body(session: Session, say: Say, page: Page, body: str, question: str):
    key = record({}, body=body)
    assert found() == [question]
    say(f"show {key}")
    judged(page.last["text/html"])


def test_the_log_of_hostile_calls(say: Say, page: Page):
    for payload in PAYLOADS[::97]:
        record({"text": payload, "model": payload}, body=asked(payload), model=payload)
    say("log")
    tree = judged(page.last["text/html"])
    assert "img" not in {element.tag for element in tree.iter()}
    say('log "<script"')
    judged(page.last["text/html"])


def test_nothing_found_says_how_to_ask(say: Say, capsys: pytest.CaptureFixture[str]):
    say("log roll \x1b[31m cutting")
    assert capsys.readouterr().out == ("No call is like that. To ask it as a question: %ai -- log roll  cutting\n")


def test_the_log_of_an_alias(say: Say, session: Session, page: Page):
    record({}, body=asked("one"), model="gpt-y")
    record({}, body=asked("two"))
    session.aliases["mine"] = Alias("openai:gpt-y")
    say("log --model mine")
    assert texts(judged(page.last["text/html"]), "td")[3::9] == ["one"]


# --------------------------------------------------------------------------------------------- show
def test_show_is_what_was_sent_and_came_back(run: Run, say: Say, endpoint: Scripted, page: Page):
    endpoint.scripted["Who is Ada?"] = "A poet's daughter."
    run("%%ai openai:gpt-x -t 0.5 -s 'Be brief.' -c talk\nWho is Ada?")
    (key,) = ai.ledger.sql("SELECT id FROM calls").fetchall()[0]
    say(f"show {str(key)[-8:]}")
    tree, text = judged(page.last["text/html"]), page.last["text/plain"]
    assert texts(tree, "pre")[:2] == ["Be brief.", "Who is Ada?"]
    assert "A poet's daughter." in texts(tree, "pre")
    whole = json.loads(texts(tree, "pre")[2])
    assert whole == endpoint.calls[0].body
    for part in ("gpt-x", "chat/completions", "0.5", "ok (HTTP 200)", "talk (", "magic", "Be brief.", "Who is Ada?"):
        assert part in text
    assert "Attempts" not in text


def test_a_call_is_named_by_its_beginning_or_end(say: Say, page: Page):
    key = record({}, id="01990000-0000-7000-8000-aaaaaaaa0001", body=asked("one"))
    record({}, id="01990001-0000-7000-8000-bbbbaaaa0001", body=asked("two"))
    for given in (key, "0199000", "aaaaaaaa0001", "AAAAAAAA0001", "01990000-0000"):
        if given == "0199000":
            with pytest.raises(errors.InputError, match="several") as raised:
                say(f"show {given}")
            assert key in raised.value.cure
        else:
            say(f"show {given}")
            assert "one" in page.last["text/plain"]
    for quote in "'\"":
        say(f"show {quote}aaaaaaaa0001{quote}")
        assert "one" in page.last["text/plain"]
        say(f"diff {quote}aaaaaaaa0001{quote} bbbbaaaa0001")
        assert "+two" in page.last["text/plain"]
    with pytest.raises(errors.InputError, match="several"):
        say("show aaaa0001")
    with pytest.raises(errors.InputError, match="no call has the id"):
        say("show 99999999")
    assert not say("show 123"), "too short to be an id"


def test_attempts_belong_together(run: Run, say: Say, endpoint: Scripted, page: Page):
    first = record({"status": "error", "http_status": 429, "text": None, "error_code": "rate_limit"})
    second = record({}, attempt=2, retry_of=first)
    for key in (first, second):
        say(f"show {key}")
        text = page.last["text/plain"]
        assert "Attempts of this call" in text
        assert first in text.partition("Attempts")[2]
        assert second in text.partition("Attempts")[2]


EVENTS = "\n\n".join(
    "data: " + json.dumps({"choices": [{"delta": {"tool_calls": [{"index": 0, "function": piece}]}}]})
    for piece in ({"name": "look", "arguments": ""}, {"arguments": '{"a"'}, {"arguments": ":1}"})
)
CALLED = {"choices": [{"message": {"tool_calls": [{"function": {"name": "look", "arguments": '{"a":1}'}}]}}]}
OUTPUT = {"object": "response", "output": [{"type": "function_call", "name": "look", "arguments": '{"a":1}'}, 7]}


@pytest.mark.parametrize(
    "body",
    [
        EVENTS, json.dumps(CALLED), json.dumps(OUTPUT),
        "data: " + json.dumps({"type": "response.completed", "response": OUTPUT}),
    ],
)  # fmt: skip
def test_tools_that_a_model_calls(say: Say, page: Page, body: str):
    assert tool_calls_of(body) == ['look({"a":1})']
    say(f"show {record({'text': None, 'body': body, 'body_size': len(body)})}")
    assert 'look({"a":1})' in texts(judged(page.last["text/html"]), "pre")
    assert 'look({"a":1})' in page.last["text/plain"]


@pytest.mark.parametrize("body", [None, "", "x", "[]", "data: [DONE]", "data: {}", '{"choices": 5, "output": "x"}',
                                  "[" * 100_000,
                                  '{"choices":[{"message":{"tool_calls":[1,{"function":2}]}}]}'])  # fmt: skip
def test_broken_answers_have_no_tools(body: str | None):
    assert all(isinstance(call, str) for call in tool_calls_of(body))


@pytest.mark.parametrize("body", [{}, {"messages": 5}, {"messages": [5, None, [], {"content": 5}]}, {"input": {"a": 1}},
                                  {"messages": [{"role": 5, "content": [5, {"text": 5}]}]}])  # fmt: skip
def test_odd_requests_are_read_as_far_as_they_go(body: dict[str, Any]):
    assert all(isinstance(part, str) for message in messages_of(body) for part in message)
    assert all(isinstance(value, str) for value in parameters_of(body).values())


def test_calls_of_which_little_is_known(say: Say, page: Page):
    kept = record({"text": None, "body_size": 70}, body=None, body_size=50)
    binary = record(
        {"text": None, "body_bytes": b"\xff\xfe", "body_size": 2}, body=None, body_bytes=b"\xff", body_size=1
    )
    sending = record(None)
    upload = record({"text": None}, body="--boundary\nform", body_size=15)
    for key, words in (
        (kept, ["(50 bytes) was not kept", "(70 bytes) was not kept"]),
        (binary, ["1 bytes that are no text", "2 bytes that are no text"]),
        (sending, ["Nothing yet: it is being sent."]),
        (upload, ["--boundary", "No content came."]),
    ):
        say(f"show {key}")
        judged(page.last["text/html"])
        assert all(part in page.last["text/plain"] for part in words)
        say(f"diff {key} {upload}")
        judged(page.last["text/html"])


def test_long_texts_are_folded_and_cut(say: Say, page: Page):
    long, picture = "word " * 50_000, "data:image/png;base64," + "A" * 3_000_000
    parts = [{"type": "text", "text": long}, {"type": "image_url", "image_url": {"url": picture}}]
    body = json.dumps({"messages": [{"role": "user", "content": parts}], "temperature": 0})
    say(f"show {record({'text': 'short'}, body=body, body_size=len(body))}")
    tree = judged(page.last["text/html"])
    assert len(page.last["text/html"]) < 300_000
    assert "more characters" in page.last["text/plain"]
    assert texts(tree, "summary")[0] == "user"
    assert "short" in [pre for pre in texts(tree, "pre") if len(pre) < 10]


def test_hostile_calls_are_shown_as_text(say: Say, page: Page):
    for payload in [*PAYLOADS[::211], HOSTILE]:
        title = app().records
        talk = new_id()
        title.add("conversations", ("id", "created_at", "title"), [(talk, utc_now(), payload)])
        first = record(
            {"text": payload, "status": "error", "error_code": payload, "error_message": payload, "model": payload,
             "finish_reason": payload, "provider_request_id": payload, "body": json.dumps({payload: payload})},
            body=asked(payload, **{payload or "x": payload, "temperature": payload}),
            model=payload, notebook=payload, cell_id=payload, user_id=payload, conversation_id=talk, endpoint=payload,
        )  # fmt: skip
        second = record({"text": f"not {payload}"}, body=asked(f"not {payload}"))
        for line in (f"show {first}", f"diff {first} {second}", f"diff {second} {first}"):
            say(line)
            tree = judged(page.last["text/html"])
            assert not list(tree.iter("img"))
            assert "\x1b" not in page.last["text/plain"]


# --------------------------------------------------------------------------------------------- why
def test_why_of_the_last_answer(run: Run, say: Say, session: Session, page: Page, endpoint: Scripted):
    run("%%ai -t 0.5\nHello?")
    say("why")
    text = page.last["text/plain"]
    assert "openai:gpt-4o-mini: ok" in text
    assert "connect(model=...) says openai:gpt-4o-mini" in text
    assert "1 message (user)" in text
    assert "temperature=0.5" in text
    assert "replayed" not in text
    assert re.search(r"%ai show [0-9a-f]{8}$", text)
    judged(page.last["text/html"])
    run("%%ai openai:gpt-x\nHello?")
    say("why")
    assert "it was named" in page.last["text/plain"]
    session.aliases["quick"] = Alias("openai:gpt-x")
    try:
        say("why")
        assert "quick stands for it" in page.last["text/plain"]
    finally:
        del session.aliases["quick"]


def test_why_of_a_failure(run: Run, say: Say, page: Page, endpoint: Scripted):
    endpoint.scripted["boom"] = Fault(500, message=HOSTILE)
    run("%%ai\nboom")
    say("why")
    judged(page.last["text/html"])
    assert "<script>alert(1)</script>" in page.last["text/plain"]


def test_why_of_what_was_replayed_and_of_what_waited(say: Say, session: Session, page: Page):
    old = str(uuid.UUID(int=(uuid.UUID(new_id()).int & ~(((1 << 48) - 1) << 80)) | (1_772_323_200_000 << 80)))
    record({}, id=old, sent_at=datetime.datetime(2026, 3, 1, 0, 0, 12), session_id=new_id())
    session.last_request = old
    say("why")
    assert "yes, from the call of 2026-03-01 00:00:12 UTC" in page.last["text/plain"]
    assert "12.0 s until limits allowed it" in page.last["text/plain"]


def test_why_goes_by_the_notebook_in_a_new_kernel(
    say: Say, session: Session, page: Page, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    session.last_request = None
    monkeypatch.setenv("JPY_SESSION_NAME", "/home/me/a.ipynb")
    record({}, notebook="/home/me/b.ipynb", body=asked("theirs"))
    say("why")
    assert capsys.readouterr().out == "Nothing was asked here yet.\n"
    key = record({}, notebook="/home/me/a.ipynb", session_id=new_id())
    record({}, notebook="/home/me/b.ipynb", body=asked("theirs"))
    say("why")
    assert key[-8:] in page.last["text/plain"]
    assert "replayed" not in page.last["text/plain"], "it was another kernel's, and no replay"


# --------------------------------------------------------------------------------------------- diff
def test_diff_tells_what_differs(say: Say, page: Page):
    first = record(
        {"text": "a\nb\nc", "cost_usd": 0.5, "input_tokens": 3, "output_tokens": 1},
        body=asked("one\ntwo", temperature=0),
    )
    second = record({"text": "a\nB\nc", "cost_usd": 0.25}, body=asked("one\nthree", temperature=1), model="gpt-y")
    say(f"diff {first} {second}")
    tree, text = judged(page.last["text/html"]), page.last["text/plain"]
    lines = text.splitlines()
    for line in ("-two", "+three", "-temperature: 0", "+temperature: 1", "-b", "+B", " one", " a"):
        assert line in lines
    for part in ("openai:gpt-x", "openai:gpt-y", "0.5 US dollars", "0.25 US dollars", "3 in + 1 out"):
        assert part in text
    coloured = [("".join(span.itertext()), span.attrib["style"]) for span in tree.iter("span")]
    assert ("-two", "background-color:rgba(248,81,73,0.25)") in coloured
    assert ("+three", "background-color:rgba(46,160,67,0.25)") in coloured
    say(f"diff {first} {first}")
    assert "what was sent: the same" in page.last["text/plain"]


def test_a_stream_is_shown_like_any_answer(run: Run, say: Say, session: Session, endpoint: Scripted, page: Page):
    endpoint.scripted["tell"] = Answer("one two three four five", cut_after=3)
    run("%%ai\ntell")
    (key,) = ai.ledger.sql("SELECT id FROM calls").fetchall()[0]
    say(f"show {key}")
    tree = judged(page.last["text/html"])
    assert "cut" in page.last["text/plain"]
    assert any(pre.startswith("one two three") for pre in texts(tree, "pre"))
    assert any(pre.startswith("data:") for pre in texts(tree, "pre")), "as it came"
