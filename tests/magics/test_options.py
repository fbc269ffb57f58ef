"""The options and the interpolation of the magics: pure, any line and any text."""

from __future__ import annotations

import os
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.error import UsageError

from ipyconvexai.notebook.formats import code_of, json_of
from ipyconvexai.notebook.interpolation import interpolate
from ipyconvexai.notebook.options import Options, cell_options, line_options


# ------------------------------------------------------------------------------------------------- options
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", Options()),
        ("openai:gpt-4o-mini", Options(model="openai:gpt-4o-mini")),
        ("groq/openai/gpt-oss-20b -t 0.5", Options(model="groq/openai/gpt-oss-20b", params={"temperature": 0.5})),
        ("-t 0 local", Options(model="local", params={"temperature": 0.0})),
        ("--temperature=1 --max-tokens=12", Options(params={"temperature": 1.0, "max_tokens": 12})),
        ('-s "Be brief, don\'t explain."', Options(system="Be brief, don't explain.")),
        ("--system 'It''s odd' local", Options(system="It''s odd", model="local")),
        ('-m {"top_p": 0.9, "stop": ["a b"]} local', Options(params={"top_p": 0.9, "stop": ["a b"]}, model="local")),
        ("-m '{\"top_p\": 0.9}' local", Options(params={"top_p": 0.9}, model="local")),
        ('--model-parameters={"seed": 1}', Options(params={"seed": 1})),
        ("-c talk -o reply -f json", Options(conversation="talk", output="reply", format="json")),
        ("--replay only --no-stream", Options(replay="only", stream=False)),
        ("--model local", Options(model="local")),
    ],
)
def test_a_line_is_understood(line: str, expected: Options):
    assert cell_options(line) == expected


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("don't", None),
        ("a b", "one model"),
        ("-x", "unknown option -x"),
        ("--flag=1", "unknown option --flag"),
        ("-t", "wants a value"),
        ("-t hot", "wants a number"),
        ("--max-tokens 1.5", "whole number"),
        ("-o 1x", "name of a variable"),
        ("-o class", "name of a variable"),
        ("-f yaml", "not .yaml."),
        ("-f nonsense", "one of markdown, text, json, code"),
        ("--replay maybe", "one of off, reuse, only"),
        ("-m {top_p: 1}", "wants JSON"),
        ("-m [1]", "JSON object"),
        ('-m {"model": "x"}', "cannot set model"),
    ],
)
def test_a_wrong_line_is_told_in_one_sentence(line: str, says: str | None):
    if says is None:
        assert cell_options(line).model == line, "an apostrophe is a letter"
        return
    with pytest.raises(UsageError, match=says) as raised:
        cell_options(line)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("line", "question"),
    [
        ("What's that, don't you think", "What's that, don't you think"),
        ("-t 0 -5 plus 3", "-5 plus 3"),
        ("- a list item", "- a list item"),
        ("-- help", "help"),
        ("-- -t is an option", "-t is an option"),
    ],
)
def test_a_question_on_one_line_begins_after_the_options(line: str, question: str):
    assert line_options(line)[1] == question


_words = st.sampled_from(
    ["-t", "-s", "-m", "-f", "-o", "--", "--replay", "--x=", "'", '"', "{", "}", '{"a":1}', "\\", "don't", "local", "0"]
)


@settings(max_examples=500)
@given(st.one_of(st.text(max_size=60), st.lists(_words, max_size=8).map(" ".join)))
def test_any_line_gives_options_or_a_usage_error(line: str):
    for parse in (cell_options, line_options):
        try:
            parse(line)
        except UsageError:
            pass


# ------------------------------------------------------------------------------------------- interpolation
class Paper:
    title = "On Hats"
    year = 2024
    _secret = "shh"
    __hidden__ = "shh"

    def __str__(self) -> str:
        return "a paper"

    def cite(self) -> str:
        return "never called"

    @property
    def broken(self) -> str:
        raise ZeroDivisionError("inside")


NAMES = {
    "name": "Ada",
    "paper": Paper(),
    "In": ["", "x = 1"],
    "Out": {3: "three"},
    "doc": "evil {os.environ} {name} {paper.__class__}",
    "os": os,
    "environ": os.environ,
    "function": test_a_line_is_understood,
    "none": None,
    "generator": (number for number in range(3)),
    "space": types.SimpleNamespace(module=os, inner=types.SimpleNamespace(x=1)),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello {name}!", "Hello Ada!"),
        ("{paper}, {paper.title} of {paper.year}", "a paper, On Hats of 2024"),
        ("{In[1]} {Out[3]} {space.inner.x}", "x = 1 three 1"),
        ('{"key": {name}}', '{"key": Ada}'),
        ("{none}", "None"),
    ],
)
def test_names_become_their_text(text: str, expected: str):
    assert interpolate(text, NAMES) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("{}", "{ }", "{unknown}", "{'foo':'bar'}", "function f(){ return {a: 1}; }", r"\frac{a}{b} \sum_{i=0}^{n}"),
        *(
            "{{name}}",
            "{name",
            "name}",
            "{name.}",
            "{name!x}",
            "{1+1}",
            "{name()}",
            "{In[99]}",
            "{Out[4]}",
            "{paper.none}",
        ),
        *("{os}", "{os.environ}", "{environ}", "{space.module}", "{space.module.environ}", "{function}"),
        *(
            "{function.__globals__}",
            "{paper.__class__}",
            "{paper.cite}",
            "{paper._secret}",
            "{paper.__hidden__}",
            "{generator.gi_frame}",
            "{len}",
        ),
        *("{__builtins__}", "{paper.none}"),
    ],
)
def test_other_braces_stay_byte_for_byte(text: str):
    assert interpolate(text, NAMES) == text


def test_a_value_is_never_read_again():
    assert interpolate("{doc} {name}", NAMES) == f"{NAMES['doc']} Ada"


def test_a_value_that_fails_is_a_usage_error():
    with pytest.raises(UsageError, match=r"\{paper.broken\} cannot be read: ZeroDivisionError: inside"):
        interpolate("{paper.broken}", NAMES)


@given(st.text(alphabet="{}[]._ namepr0\n\\'\"", max_size=80))
def test_any_text_goes_through(text: str):
    assert isinstance(interpolate(text, {key: NAMES[key] for key in ("name", "In", "Out")}), str)


# -------------------------------------------------------------------------------------------------- formats
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("Sure!\n```python\nx = 1\n\ny = 2\n```\nThat is it.", "x = 1\n\ny = 2"),
        ("```\na\n```\nand\n~~~py\nb\n~~~", "a\n\nb"),
        ("x = 1\n", "x = 1"),
        ("```python\nx = 1", "x = 1"),
    ],
)
def test_code_is_what_is_fenced(answer: str, code: str):
    assert code_of(answer) == code


@pytest.mark.parametrize("answer", ['{"a": 1}', '```json\n{"a": 1}\n```', 'Here:\n```\n{"a": 1}\n```\nDone.'])
def test_json_may_be_fenced(answer: str):
    assert json_of(answer, None) == {"a": 1}
