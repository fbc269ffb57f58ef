"""The double's image endpoint speaks as OpenAI's does, to OpenAI's own client."""

from __future__ import annotations

import base64

import openai
import pytest

from ipyconvexai.testing import Answer, Endpoint


def test_pictures_as_many_as_asked_for() -> None:
    with Endpoint() as endpoint, openai.OpenAI(base_url=endpoint.url, api_key="sk-test", max_retries=0) as client:
        made = client.images.generate(model="any", prompt="a grey cat", n=2)
        assert endpoint.calls[0].prompt == "a grey cat"
        assert endpoint.calls[0].kind == "images"
    assert made.data is not None
    assert [base64.b64decode(one.b64_json or "")[:4] for one in made.data] == [b"\x89PNG"] * 2
    assert made.data[0].revised_prompt == "echo: a grey cat"
    assert made.usage is not None
    assert made.usage.input_tokens == 3


def test_a_picture_of_ones_own_and_a_prompt_that_is_missing() -> None:
    answer = Answer(picture=b"GIF89a...")
    with Endpoint(answer) as endpoint, openai.OpenAI(base_url=endpoint.url, api_key="sk-test", max_retries=0) as client:
        made = client.images.generate(model="any", prompt="x")
        assert made.data is not None
        assert base64.b64decode(made.data[0].b64_json or "") == b"GIF89a..."
        assert made.data[0].revised_prompt is None
        with pytest.raises(openai.BadRequestError, match="prompt"):
            client.images.generate(model="any", prompt="")
