"""With `record="metadata"`, everywhere or for one call, no sentence of a prompt or of an answer is on the disk; and
what would need the content says why it cannot. The scanner looks at each byte of a folder that has the ledger, its
log, the keeper's folder, temporary files and what is logged, and at each value of each row."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pandas as pd
import pytest

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.testing import Answer, Endpoint, Fault, Received, ToolCall
from ipyconvexai.widgets.talk import Talk
from tests.promises.promising import Figure
from tests.promises.scanning import in_files, in_rows, let_go
from tests.shells import own_shell
from tests.store.helpers import wait_for

PROMISE = (
    'with `record="metadata"` no word of a prompt or an answer is on the disk, but for what a provider passes off as'
    " its own code, model or id: one word of at most 40 ASCII letters, digits and signs, without an @; what needs a"
    " text says why it fails, and what would be paid again says so"
)

ASKED, ANSWERED = "The heron counts seven silver keys", "Nobody told the ferryman about Tuesday"
# Without a blank, as codes are: of another script, an address, and too long for a code.
UNBROKEN = ["患者的诊断结果是糖尿病请保密", "jane.doe@heron.example", "seven-silver-keys-" * 3]
# As it is, in an address, and a part of it.
NEEDLES = [
    *UNBROKEN,
    *(ASKED, ANSWERED, ASKED[4:24], ANSWERED[7:27]),
    *(text.replace(" ", blank) for text in (ASKED, ANSWERED) for blank in ("+", "%20", "_")),
]


def answer(call: Received) -> Any:
    """The answer quotes the question, and so do the errors, in each word that a provider may choose."""
    told = f"{ANSWERED}. {ASKED}"
    if call.kind not in ("chat", "responses"):
        return None
    if call.prompt in UNBROKEN:  # and the answer quotes it wherever there is a place
        said = {"finish_reason": call.prompt, "message": {"role": "assistant", "content": call.prompt}, "index": 0}
        named = {"id": call.prompt, "object": "chat.completion", "created": 1, "model": call.prompt, "choices": [said]}
        return Answer(raw=json.dumps(named).encode())
    if call.prompt.removesuffix("!") in UNBROKEN:
        word = call.prompt.removesuffix("!")
        return Fault(400, message=word, code=word, type=word)
    if "fail" in call.prompt:
        return Fault(400, message=told, code=ASKED, type=ANSWERED, headers={"x-request-id": ASKED})
    if "busy" in call.prompt:
        return Fault(503, message=told, retry_after=0.01)
    if "cut" in call.prompt:
        return Answer(told, cut_after=2)
    return Answer(told, finish_reason=ASKED) if "odd" in call.prompt else told


class Place:
    """A folder that has everything of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = folder / "ledger.duckdb"

    def found(self, needles: list[str] = NEEDLES) -> list[str]:
        let_go(self.ledger)
        return in_rows(self.ledger, needles) + in_files(self.folder, needles)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    made = Place(tmp_path / "place")
    for name in ("tmp", "run"):
        (made.folder / name).mkdir(parents=True)
    monkeypatch.setenv("IPYCONVEXAI_KEEPER_LINGER", "0.2")
    monkeypatch.setenv("TMPDIR", str(made.folder / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(made.folder / "run"))
    handler, logger = logging.FileHandler(made.folder / "our.log"), logging.getLogger("ipyconvexai")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield made
    logger.removeHandler(handler)
    logger.setLevel(level)
    handler.close()


@pytest.fixture
def quiet(place: Place, endpoint: Endpoint) -> Iterator[ai.App]:
    endpoint.reply(answer)
    with ai.connect(place.ledger, model="openai:gpt-4o-mini", record="metadata", retries=1) as app:
        yield app


TOOL: Any = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}


def ways(**options: Any) -> list[Callable[[], Any]]:
    """Of asking for a text, with what may become of it."""
    return [
        lambda: ai.generate(ASKED, **options),
        lambda: ai.generate([{"role": "user", "content": ASKED}], system=ASKED, user=ASKED, **options),
        lambda: ai.generate(f"{ASKED} odd", **options),
        lambda: ai.generate(f"{ASKED} fail", **options),
        lambda: ai.generate(f"{ASKED} busy", **options),
        lambda: ai.generate(ASKED, schema=dict[str, int], **options),
        lambda: ai.generate(ASKED, replay="only", **options),
        lambda: ai.generate(ASKED, replay="reuse", **options),
        lambda: list(ai.stream(ASKED, **options)),
        lambda: list(ai.stream(f"{ASKED} cut", **options)),
        lambda: ai.safe_generate(f"{ASKED} fail", **options),
        *(lambda word=word: ai.generate(word, **options) for word in UNBROKEN),
        *(lambda word=word: ai.generate(f"{word}!", **options) for word in UNBROKEN),
    ]


def of_the_sdk() -> list[Callable[[], Any]]:
    client = ai.OpenAI()
    messages: Any = [{"role": "user", "content": ASKED}]
    chat, hurried = client.chat.completions.create, client.with_options(timeout=0.0001, max_retries=0)
    return [
        lambda: client.embeddings.create(model="m", input=ASKED),
        lambda: client.responses.create(model="m", input=ASKED),
        lambda: list(chat(model="m", messages=messages, tools=[TOOL], stream=True)),
        lambda: hurried.chat.completions.create(model="m", messages=messages),
        lambda: client.images.generate(model="m", prompt=ASKED),
        lambda: client.files.create(file=("heron.txt", ASKED.encode()), purpose="assistants"),
    ]


def try_all(tried: list[Callable[[], Any]]) -> None:
    for way in tried:
        try:
            way()
        except (errors.Error, openai.OpenAIError):
            pass


def test_of_calls_nothing_is_kept(quiet: ai.App, place: Place, endpoint: Endpoint, figure: Figure) -> None:
    tried = [*ways(), *of_the_sdk()]
    try_all(tried)
    endpoint.reply(Answer(tool_calls=[ToolCall("look_up", {"about": ASKED})]))
    assert ai.generate(ASKED).tool_calls
    rows, used, statuses = quiet.store.read("SELECT count(*), sum(input_tokens), count(DISTINCT status) FROM calls")[0]
    assert rows >= len(tried)
    assert used > 50
    assert statuses >= 3
    quiet.close()
    assert place.found() == []
    figure(f"0 of {len(NEEDLES)} spellings on the disk", f"{len(tried)} ways to ask")


def test_of_one_call_nothing_is_kept(place: Place, endpoint: Endpoint) -> None:
    endpoint.reply(answer)
    with ai.connect(place.ledger, model="openai:gpt-4o-mini", retries=1) as app:
        try_all(ways(record="metadata"))
        assert app.store.read("SELECT count(*) > 10, count(input_tokens) > 3, count(request) FROM calls") == [
            (True, True, 0)
        ]
        with pytest.raises(errors.InputError, match="nothing is kept that a conversation could go on from"):
            ai.generate(ASKED, record="metadata", conversation="talk")
        with pytest.raises(errors.InputError, match="record='some' is not known"):
            ai.generate(ASKED, record="some")
        ai.run(ask_quietly)
        with pytest.raises(errors.ReplayMissError, match="recorded without its content"):
            ai.generate(ASKED, replay="only")
    assert place.found() == []


@ai.action
async def ask_quietly(ctx: ai.ActionCtx) -> None:
    await ctx.generate(ASKED, record="metadata")


def test_a_planted_sentence_is_found(place: Place, endpoint: Endpoint) -> None:
    """The control: with its content a call is seen, in rows and in bytes, and so are a log and a file's name."""
    endpoint.reply(answer)
    with ai.connect(place.ledger, model="openai:gpt-4o-mini", record="full") as app:
        ai.generate(f"{ASKED} one call", replay="off")
        assert ai.generate(f"{ASKED} one call", record="metadata", replay="reuse").replayed
        app.close()
    logging.getLogger("ipyconvexai").debug(ANSWERED)
    (place.folder / "tmp" / ASKED.replace(" ", "_")).touch()
    found = place.found()
    for spot in ("requests.body", "responses.text", "ledger.duckdb", "our.log"):
        assert [line for line in found if line.startswith(spot)], spot
    assert [line for line in found if line.endswith(ASKED.replace(" ", "_"))]


# ---------------------------------------------------------------------------------------------- batches
FRAME = pd.DataFrame({"text": [ASKED, f"{ASKED} fail", f"{ANSWERED}", None], "kind": [ASKED, ANSWERED, "c", "d"]})


def test_of_batches_nothing_is_kept(quiet: ai.App, place: Place, tmp_path: Path) -> None:
    source = tmp_path / "texts.csv"  # the user's own
    FRAME.to_csv(source, index=False)
    done = ai.map(FRAME, f"{ASKED}: {{text}}", into="answer", system=ASKED, progress=False)
    assert ANSWERED in done["answer"][0]
    assert ASKED in str(done["answer_error"][1])
    summed: Any = ai.summarize(str(source), "text", prompt=f"{ASKED} {{document}}", progress=False)
    assert ANSWERED in str(summed.fetchall())
    assert {line.partition("/")[0] for line in in_files(place.folder, [ASKED])} == {"tmp"}, "the result's own file"
    del summed
    gc.collect()
    assert ANSWERED in str(ai.reduce(FRAME, "text", by="kind", progress=False)["summary"][0])
    ai.summarize(f"SELECT '{ASKED}' AS text", "text", progress=False)
    with pytest.raises(errors.BatchError):
        ai.map(FRAME, "{text}", into="answer", on_error="raise", progress=False)
    batches = ai.batches().df()
    assert len(batches) >= 5
    assert batches["requests"].sum() > 5
    quiet.close()
    assert place.found() == []


def test_a_batch_cannot_be_resumed_nor_scheduled_with_content(
    quiet: ai.App, place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, there = tmp_path / "texts.csv", tmp_path / "done.csv"
    FRAME.to_csv(source, index=False)
    before = len(quiet.store.read("SELECT 1 FROM calls"))
    for times in (1, 2):  # nothing is known of the first time: it is paid again, and each batch says so, once
        ai.map(FRAME[:1], "{text}", into="answer", progress=False)
        assert caplog.text.count("where this batch is run again, all of it is sent, and paid, again") == times
    assert len(quiet.store.read("SELECT 1 FROM calls")) == before + 2
    with pytest.raises(errors.InputError, match="keeps no content"):
        ai.schedule(ai.summarize, FRAME, "text", output=there)
    with pytest.raises(errors.InputError, match="what is to be asked later would be content"):
        ai.schedule(ai.map, source, f"{ASKED}: {{text}}", into="answer", output=there)
    for option in ("prompt", "system"):
        asked: dict[str, Any] = {option: f"{ASKED} {{document}}"}
        with pytest.raises(errors.InputError, match="what is to be asked later would be content"):
            ai.schedule(ai.summarize, source, "text", output=there, **asked)
    with pytest.raises(errors.InputError, match="would be lost"):
        ai.schedule(ai.summarize, source, "text")
    job = ai.schedule(ai.summarize, source, "text", output=there)
    assert job.wait(30) == "success"
    assert ANSWERED in there.read_text()
    with pytest.raises(errors.NotFoundError, match="keeps no answers"):
        job.result()
    quiet.close()
    assert place.found() == []


def test_reuse_says_that_it_cannot(quiet: ai.App, endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    """Both are paid, and that is told once for an app."""
    for _ in range(2):
        assert not ai.generate(ASKED, replay="reuse").replayed
    assert endpoint.count == 2
    assert caplog.text.count("replay='reuse' finds no answer that is recorded without its content") == 1


# ---------------------------------------------------------------------------------------------- functions
@ai.action(retry=2)
async def answer_it(ctx: ai.ActionCtx, number: int = 1) -> str:
    return str(await ctx.generate(f"{ASKED} {number}"))


@ai.action
async def fail_at_it(ctx: ai.ActionCtx, topic: str = "") -> str:
    raise ai.errors.ApplicationError({"topic": f"{ASKED} {topic}"})


@ai.mutation
def quote(ctx: ai.MutationCtx, topic: str = "") -> str:
    return f"{ASKED} {topic}"


@ai.mutation
def stumble(ctx: ai.MutationCtx) -> None:
    raise ValueError(ASKED)


@ai.mutation
def schedule_them(ctx: ai.MutationCtx) -> None:
    for function in (answer_it, fail_at_it, quote, stumble):
        ctx.scheduler.run_after(0, function)
    ctx.scheduler.run_after(0, answer_it, number=2)


@ai.mutation
def schedule_a_text(ctx: ai.MutationCtx, topic: str) -> None:
    ctx.scheduler.run_after(0, quote, topic=topic)


@ai.action
async def schedule_a_text_later(ctx: ai.ActionCtx, topic: str) -> None:
    await ctx.scheduler.run_after(0, quote, topic=topic)


@ai.mutation
def keep_a_message(ctx: ai.MutationCtx, text: str) -> None:
    ctx.db.insert(ai.Document(content=text))


@ai.mutation
def keep_a_conversation(ctx: ai.MutationCtx, **words: str) -> None:
    ctx.db.insert(ai.Conversation(**words))


def test_of_jobs_and_crons_nothing_is_kept(quiet: ai.App, place: Place, caplog: pytest.LogCaptureFixture) -> None:
    ai.run(schedule_them)
    wait_for(lambda: sorted(ai.jobs().df()["state"]) == ["failed"] * 2 + ["success"] * 3, "the jobs")
    assert set(ai.jobs("failed").df()["error_code"]) == {"application", "ValueError"}
    for schedule in (schedule_a_text, schedule_a_text_later):
        with pytest.raises(errors.ArgumentsError, match="an argument of quote is a text"):
            ai.run(schedule, topic=ASKED)
    with pytest.raises(errors.InputError, match="no content is kept in documents"):
        ai.run(keep_a_message, text=ASKED)
    assert ASKED in ai.run(quote)
    with caplog.at_level(logging.ERROR):
        ai.cron("0 2 * * *", name="nightly", args={"topic": ASKED})(quote)
        ai.cron("0 2 * * *", name="bare")(quote)
        quiet.functions.scheduler.wake()
        wait_for(lambda: quiet.store.read("SELECT name FROM crons") == [("bare",)], "the cron")
    assert "the cron nightly will not run: with record='metadata'" in caplog.text
    quiet.close()
    assert place.found() == []


# ---------------------------------------------------------------------------------------------- people
def test_conversations_panels_and_providers_batches_are_refused(
    quiet: ai.App, place: Place, endpoint: Endpoint
) -> None:
    def say_in_a_panel(title: str | None) -> None:
        talk = Talk(quiet, title, lambda updates: None, system=ASKED)
        try:
            quiet.run(talk.open())
            quiet.run(talk.send(ASKED))
        finally:
            talk.close()

    for way in (
        lambda: ai.conversation(ASKED),
        lambda: ai.generate(ASKED, conversation=ASKED),
        lambda: list(ai.stream(ASKED, conversation=ASKED)),
        lambda: say_in_a_panel(ASKED),
        lambda: say_in_a_panel(None),
        lambda: ai.run("ai.start_conversation", title=ASKED),
        lambda: ai.run("ai.start_conversation", system=ASKED),
    ):
        with pytest.raises(errors.InputError, match="with record='metadata' no"):
            way()
    bare = ai.run("ai.start_conversation")
    with pytest.raises(errors.InputError, match="no content is kept in messages"):
        ai.run("ai.send_message", conversation_id=bare, content=ASKED)
    # What a provider's batch answers is collected in the ledger: it would be paid, and lost.
    with pytest.raises(errors.InputError, match="what a provider's batch is asked and answers stands there"):
        ai.map(FRAME, f"{ASKED}: {{text}}", into="answer", engine="openai-batch", progress=False)
    assert endpoint.count == 0
    assert quiet.store.read("SELECT count(*) FROM batches") == [(0,)]
    quiet.close()
    assert place.found() == []


def test_magics_keep_nothing_and_say_why(
    quiet: ai.App, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with own_shell(tmp_path / "ipython") as shell:
        ai.load_ipython_extension(shell)
        try:

            def run(cell: str) -> str:
                capsys.readouterr()
                result = shell.run_cell(cell)
                return "".join(capsys.readouterr()) + str(result.error_before_exec or result.error_in_exec or "")

            assert ANSWERED in run(f"%%ai -o reply\n{ASKED}")
            assert ASKED in run(f"%%ai\n{ASKED} fail")  # told, and not kept
            request = shell.user_ns["reply"].request_id
            other = ai.generate(ASKED).request_id
            assert "no prompt is kept" in run(f"%%ai --save heron\n{ASKED}")
            assert "no conversation is kept" in run(f"%%ai -c talk\n{ASKED}")
            for line in (f"show {request}", f"diff {request} {other}"):
                assert "metadata" in run(f"%ai {line}"), line
            assert "their content is not kept" in run(f"%ai export {tmp_path / 'tuning.jsonl'}")
            assert ASKED not in run("%ai log")
        finally:
            ai.unload_ipython_extension(shell)
    quiet.close()
    assert place.found() == []
