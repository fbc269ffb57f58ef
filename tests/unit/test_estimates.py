"""The estimate of a call's tokens learns from the answers before it."""

from __future__ import annotations

import pytest

from ipyconvexai.providers.estimates import OUTPUT, TOKENS_PER_MEDIUM, Estimates

KEY = ("openai", "m", "chat/completions")


def test_before_anything_is_known_a_quarter_of_the_bytes():
    assert Estimates().estimate(KEY, b"x" * 400, None) == (100, OUTPUT)


def test_what_the_call_allows_itself_counts():
    assert Estimates().estimate(KEY, b"x" * 400, 7) == (100, 7)


def test_it_learns_from_answers():
    made = Estimates()
    for _ in range(30):
        made.learn(KEY, b"x" * 1000, 500, 40)
    read, written = made.estimate(KEY, b"x" * 200, None)
    assert read == pytest.approx(100, abs=2)
    assert written == pytest.approx(40, abs=2)
    assert made.estimate(("openai", "other", KEY[2]), b"x" * 400, None) == (100, OUTPUT)


def test_one_strange_answer_changes_little():
    made = Estimates()
    for tokens in [100] * 50 + [10_000]:
        made.learn(KEY, b"x" * 1000, tokens, 10)
    assert made.estimate(KEY, b"x" * 1000, 0)[0] < 700


def test_it_recalls_what_the_ledger_has():
    made = Estimates()
    assert not made.knows(KEY)
    made.recall(KEY, (500, 0.5, 80.0))
    assert made.knows(KEY)
    assert made.estimate(KEY, b"x" * 100, None) == (50, 80)
    made.recall(KEY, (1, 9.0, 9.0))  # what is known is not replaced
    assert made.estimate(KEY, b"x" * 100, None) == (50, 80)


def test_pictures_are_not_counted_by_their_bytes():
    body = b'{"messages": "data:image/png;base64,' + b"A" * 400_000 + b'"}'
    read, _ = Estimates().estimate(KEY, body, 1)
    assert TOKENS_PER_MEDIUM <= read < TOKENS_PER_MEDIUM + 50


def test_embeddings_answer_without_tokens():
    assert Estimates().estimate(("openai", "m", "embeddings"), b"x" * 400, None) == (100, 0)
