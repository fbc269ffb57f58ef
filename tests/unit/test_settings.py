"""Settings from the environment, secrets that do not show themselves, redaction."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import urllib.parse

import pytest

from ipyconvexai import settings
from ipyconvexai.errors import InputError
from ipyconvexai.settings import Secret, Settings, redact, redact_bytes, remember_secret
from ipyconvexai.values import Replay

KEY = "sk-settings-0123456789-abcdefghij"


@pytest.fixture(autouse=True)
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_forms", {})
    monkeypatch.setattr(settings, "_ordered", [])
    monkeypatch.setattr(settings, "_scanned", -10.0)


def test_the_environment_and_what_overrides_it():
    environ = {
        "IPYCONVEXAI_DB": "/x.duckdb",
        "IPYCONVEXAI_MODEL": "ollama:m",
        "IPYCONVEXAI_REPLAY": "reuse",
        "IPYCONVEXAI_RECORD": "metadata",
        "JUPYTERHUB_USER": "ada",
    }
    found = Settings.from_environment(environ)
    assert (found.path, found.model, found.replay, found.record, found.user) == (
        "/x.duckdb",
        "ollama:m",
        Replay.REUSE,
        "metadata",
        "ada",
    )
    assert Settings.from_environment(environ, path=":memory:", model=None).path == ":memory:"


def test_empty_variables_do_not_count():
    found = Settings.from_environment({"IPYCONVEXAI_DB": "", "IPYCONVEXAI_MODEL": "", "IPYCONVEXAI_REPLAY": ""})
    assert found.path.endswith("ledger.duckdb")
    assert (found.model, found.replay) == (None, Replay.OFF)


@pytest.mark.parametrize(("name", "value"), [("IPYCONVEXAI_REPLAY", "sometimes"), ("IPYCONVEXAI_RECORD", "nothing")])
def test_wrong_words_name_the_right_ones(name: str, value: str):
    with pytest.raises(InputError, match=r"only|metadata"):
        Settings.from_environment({name: value})


def test_a_secret_does_not_show_itself():
    secret = Secret(KEY)
    assert secret.reveal() == KEY
    shown = [repr(secret), str(secret), f"{secret}", repr([secret]), repr({"key": secret}), repr(dir(secret))]
    assert not any(KEY in text for text in shown)
    assert not hasattr(secret, "__dict__")
    with pytest.raises(TypeError, match="travel"):
        pickle.dumps(secret)
    with pytest.raises(TypeError, match="travel"):
        copy.deepcopy(secret)
    assert bool(secret)
    assert not Secret("")


@pytest.mark.parametrize("key", [KEY, 'strange "key"\\with/slashes é', "short-8c"])
def test_redaction_in_every_spelling(key: str):
    remember_secret(key)
    for form in (key, json.dumps(key)[1:-1], urllib.parse.quote(key, safe=""), base64.b64encode(key.encode()).decode()):
        assert key not in redact(f"before {form} after")
        assert redact(f"before {form} after").startswith("before ***")
        assert redact_bytes(b"\xff" + form.encode()).startswith(b"\xff***")


def test_the_beginning_and_the_end_of_a_key_are_keys_too():
    remember_secret(KEY)
    assert redact(f"{KEY[:16]}... ...{KEY[-16:]}") == "***... ...***"
    remember_secret("/home/somebody/with/a/long/path/.ssh/key")
    assert redact("/home/somebody/w else") == "/home/somebody/w else", "a path is no token"


def test_keys_of_the_environment_are_known(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "tok-from-the-environment")
    monkeypatch.setenv("SOME_SETTING", "no-secret-at-all")
    assert redact("tok-from-the-environment no-secret-at-all") == "*** no-secret-at-all"


@pytest.mark.parametrize(("name", "value"), [("SORT_KEY", "colour is"), ("PRIMARY_KEY", "customer_id")])
def test_a_word_under_a_telling_name_is_no_secret(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv(name, value)
    assert redact(f"The {value} blue") == f"The {value} blue"


def test_a_providers_key_is_one_however_it_looks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLLM_API_KEY", " my secret\n")
    assert redact("Bearer my secret") == "Bearer ***"


def test_short_values_would_blank_out_words():
    remember_secret("yes")
    assert redact("yes") == "yes"


def test_a_key_within_a_key_leaves_nothing_of_the_longer_one():
    remember_secret("middle-of-it")
    remember_secret("sk-first middle-of-it last-part")
    assert redact("<sk-first middle-of-it last-part>") == "<***>"
    assert redact_bytes(b"<sk-first middle-of-it last-part>") == b"<***>"
    assert redact("<middle-of-it>") == "<***>"


@pytest.mark.parametrize("value", ["lm-studio", "not-needed", "placeholder", "00000000", "correcthorse"])
def test_what_stands_in_for_a_key_is_no_secret(value: str, monkeypatch: pytest.MonkeyPatch):
    """It is an ordinary word or a number, and would be taken out of answers, prices and links."""
    monkeypatch.setenv("VLLM_API_KEY", value)
    monkeypatch.setattr(settings, "_scanned", -10.0)
    text = f"Start {value} and pay 1{value}00."
    assert settings.redact(text) == text


@pytest.mark.parametrize("value", ["hunter2hunter", "0123456789abcdef", "a" * 16])
def test_a_short_key_is_one(value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLLM_API_KEY", value)
    monkeypatch.setattr(settings, "_scanned", -10.0)
    monkeypatch.setattr(settings, "_forms", {})
    monkeypatch.setattr(settings, "_ordered", [])
    assert settings.redact(f"<{value}>") == "<***>"
