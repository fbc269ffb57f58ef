"""``%%ai -f image`` against the double: what is sent, shown, kept, refused and replayed."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

import ipyconvexai as ai
from ipyconvexai import errors
from ipyconvexai.testing import Answer, Fault
from ipyconvexai.testing.shapes import PIXEL
from tests.magics.conftest import Page, Run, Scripted

JPEG, WEBP, GIF = b"\xff\xd8\xff\xe0...", b"RIFF1234WEBP...", b"GIF89a..."


def answer(**fields: object) -> Answer:
    return Answer(raw=json.dumps({"created": 1, "data": [fields]}).encode())


def test_a_picture_is_drawn_kept_and_recorded(
    run: Run, shell: InteractiveShell, endpoint: Scripted, page: Page
) -> None:
    endpoint.scripted["a grey cat"] = Answer("a very grey cat")
    assert run('%%ai -f image -o cat -m {"size": "1024x1024"}\na grey cat') is None
    assert endpoint.calls[0].path.endswith("/images/generations")
    assert endpoint.calls[0].body == {
        "model": "gpt-image-2.5-flare",
        "prompt": "a grey cat",
        "size": "1024x1024",
    }
    shown = page.publisher.outputs[0]
    assert base64.b64decode(shown["data"]["image/png"]) == PIXEL
    assert shown["data"]["text/plain"] == "[picture: a very grey cat]"
    assert shown["metadata"] == {"image/png": {"alt": "a very grey cat"}}
    assert page.last["text/plain"].startswith("[gpt-image-2.5-flare · ")
    cat = shell.user_ns["cat"]
    assert (cat.data, cat.mime, cat.prompt, cat.revised_prompt) == (PIXEL, "image/png", "a grey cat", "a very grey cat")
    assert repr(cat) == f"<Picture image/png, {len(PIXEL)} bytes: a grey cat>"
    assert ai.ledger.sql("SELECT id::VARCHAR, source, model, status FROM calls").fetchall() == [
        (cat.request_id, "magic", "gpt-image-2.5-flare", "ok")
    ]


def test_several_pictures_and_a_terminal(
    run: Run, shell: InteractiveShell, endpoint: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("%%ai openai:gpt-image-x -f image -o cats -m '{\"n\": 2}'\nx") is None
    assert len(shell.user_ns["cats"]) == 2
    assert capsys.readouterr().out.startswith("[picture: echo: x]\n[picture: echo: x]\n[gpt-image-x")


def test_a_terminal_says_how_to_keep_a_picture(
    run: Run, shell: InteractiveShell, endpoint: Scripted, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    endpoint.scripted["x"] = Answer(picture=JPEG)
    assert run("%%ai -f image -o cat\nx") is None
    assert capsys.readouterr().out.endswith(' · cat.save("picture.jpg") writes a file]\n')
    assert run("%%ai -f image -o cats -m '{\"n\": 2}'\nx") is None
    assert ' · cats[0].save("picture.jpg") writes' in capsys.readouterr().out
    assert run("%%ai -f image\ny") is None
    said = capsys.readouterr().out
    assert ' · the same with --replay reuse -o p draws it again for nothing, then p.save("picture.png")' in said
    count = endpoint.count
    assert run("%%ai -f image --replay reuse -o p\ny") is None
    assert endpoint.count == count
    assert shell.user_ns["p"].save(tmp_path / "picture.png").read_bytes() == PIXEL


def test_a_picture_is_saved_as_it_is_and_over_nothing(
    run: Run, shell: InteractiveShell, endpoint: Scripted, page: Page, tmp_path: Path
) -> None:
    endpoint.scripted["y"] = answer(url=f"{endpoint.url}/secret.png")
    run("%%ai -f image -o cat\nx")
    run("%%ai -f image -o far\ny")
    assert "save" not in page.last["text/plain"], "a front end can do it itself"
    cat, target = shell.user_ns["cat"], tmp_path / "cat.any"
    assert cat.save(str(target)) == target
    assert target.read_bytes() == PIXEL
    target.write_bytes(b"mine" * 100)
    with pytest.raises(errors.InputError, match="exists already") as raised:
        cat.save(target)
    assert "overwrite=True" in raised.value.cure
    assert target.read_bytes() == b"mine" * 100
    assert cat.save(target, overwrite=True).read_bytes() == PIXEL
    for wrong in (tmp_path, tmp_path / "none" / "cat.png"):
        with pytest.raises(errors.InputError, match=r"cannot be written|exists already"):
            cat.save(wrong)
    with pytest.raises(errors.InputError, match="only the address"):
        shell.user_ns["far"].save(tmp_path / "far.png")
    assert [file.name for file in tmp_path.iterdir()] == ["cat.any"]


@pytest.mark.parametrize("option", ["-s 'Be bold'", "--schema 'a int'", "-c talk", "--dry-run"])
def test_what_a_picture_has_no_use_for_is_refused(run: Run, endpoint: Scripted, option: str) -> None:
    error = run(f"%%ai -f image {option}\nx")
    assert type(error).__name__ == "UsageError"
    assert "leave out -" in str(error)
    assert "\n" not in str(error)
    assert endpoint.count == 0


@pytest.mark.parametrize(("data", "mime"), [(JPEG, "image/jpeg"), (WEBP, "image/webp"), (GIF, "image/gif")])
def test_the_bytes_say_what_it_is(run: Run, endpoint: Scripted, page: Page, data: bytes, mime: str) -> None:
    endpoint.scripted["x"] = Answer(picture=data)
    assert run("%%ai -f image\nx") is None
    assert base64.b64decode(page.frames[0][mime]) == data
    assert page.frames[0]["text/plain"] == "[picture: x]"


@pytest.mark.parametrize(
    "sent",
    [
        answer(b64_json=base64.b64encode(b"<svg onload=alert(1)>").decode()),
        answer(b64_json="no base64!"),
        answer(b64_json=5),
        answer(),
        Answer(raw=b'{"data": "x"}'),
        Answer(raw=b"<html>"),
        Answer(raw=b'{"error": {"message": "no"}}'),
        Fault(500),
    ],
)
def test_what_is_no_picture_fails_the_cell_with_its_row(run: Run, endpoint: Scripted, page: Page, sent: object) -> None:
    endpoint.scripted["x"] = sent
    error = run("%%ai -f image -o x\nx")
    assert isinstance(error, errors.CallError)
    assert error.request_id
    assert page.frames == []


def test_a_picture_that_is_too_large_is_not_shown(
    run: Run, endpoint: Scripted, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipyconvexai.notebook.pictures.LARGEST", len(PIXEL) - 3)
    assert isinstance(run("%%ai -f image\nx"), errors.InvalidAnswerError)
    assert page.frames == []


def test_an_address_is_a_link_and_is_not_fetched(
    run: Run, shell: InteractiveShell, endpoint: Scripted, page: Page
) -> None:
    endpoint.scripted["x"] = answer(url=f"{endpoint.url}/secret.png")
    endpoint.scripted["y"] = answer(url="javascript:alert(1)")
    assert run("%%ai openai:dall-e-3 -f image -o x\nx") is None
    assert endpoint.calls[0].body["response_format"] == "b64_json"
    assert page.frames[0]["text/markdown"] == f"The picture is at {endpoint.url}/secret.png ."
    assert shell.user_ns["x"].url == f"{endpoint.url}/secret.png"
    assert run("%%ai -f image\ny") is None
    assert page.frames[2]["text/markdown"] == "The picture is at javascript:alert(1) ."
    assert endpoint.count == 2


@pytest.mark.parametrize("cell", ["%%ai anthropic -f image\nx", "%%ai --api-base http://127.0.0.1:9 -f image\nx"])
def test_a_provider_without_a_usual_model_wants_a_name(run: Run, endpoint: Scripted, cell: str) -> None:
    error = run(cell)
    assert type(error) is errors.ConfigurationError
    assert "-f image" in error.cure
    assert endpoint.count == 0


def test_replay_needs_neither_network_nor_key(
    run: Run, shell: InteractiveShell, endpoint: Scripted, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("%%ai -f image --replay reuse -o one\nx") is None
    monkeypatch.delenv("OPENAI_API_KEY")
    assert run("%%ai -f image --replay reuse -o two\nx") is None
    assert shell.user_ns["one"] == shell.user_ns["two"]
    assert "replayed" in page.last["text/markdown"]
    assert isinstance(run("%%ai -f image --replay only\ny"), errors.ReplayMissError)
    assert isinstance(run("%%ai -f image --replay reuse\ny"), errors.MissingKeyError)
    assert endpoint.count == 1
