"""Arguments and results are checked by the hints, and what is wrong is told in one error."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import math
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipyconvexai import settings
from ipyconvexai.errors import ArgumentsError, InputError, ResultError
from ipyconvexai.functions.validation import Arguments, Result, nearest


class Item(pydantic.BaseModel):
    title: str
    count: int = 0


@dataclasses.dataclass
class Point:
    x: int


class Color(enum.Enum):
    RED = "red"


def send(ctx, text: str, limit: int = 50, items: list[Item] = [], *, tag: Literal["a", "b"] = "a"): ...  # noqa: B006


def anything(ctx, a, b=None, **rest): ...


def problem(call: Callable[[], object]) -> str:
    with pytest.raises(ArgumentsError) as caught:
        call()
    return caught.value.message


class TestDefinition:
    def test_describe(self):
        def described(ctx, a, b=3, *, c: datetime.date | None = None, **more: int): ...

        shown = "(text: str, limit: int = 50, items: list[Item] = [], tag: Literal['a', 'b'] = 'a')"
        assert Arguments.of(send).describe() == shown
        assert Arguments.of(described).describe() == "(a, b=3, c: datetime.date | None = None, **more: int)"
        assert Arguments.of(send).names == ["text", "limit", "items", "tag"]

    def test_describe_hints_that_are_objects(self):
        class IdOf:
            def __repr__(self) -> str:
                return "IdOf(Note)"

        def g(ctx, a, b, c, d, e): ...

        g.__annotations__ = {
            "a": Annotated[str, IdOf()],
            "b": dict[str, Item] | None,
            "c": Literal["x"],
            "d": list[datetime.datetime],
            "e": None,
        }
        shown = "(a: Id[Note], b: dict[str, Item] | None, c: Literal['x'], d: list[datetime], e: None)"
        assert Arguments.of(g).describe() == shown

    @pytest.mark.parametrize(
        ("source", "said"),
        [
            ("def f(): ...", "takes no context"),
            ("def f(*, ctx): ...", "takes no context"),
            ("def f(ctx, *args): ...", r"any number of positional arguments \(\*args\)"),
            ("def f(ctx, a, /): ...", "`a` by position only"),
        ],
    )
    def test_parameters_without_names_are_refused(self, source, said):
        names: dict[str, Any] = {}
        exec(source, names)
        with pytest.raises(ArgumentsError, match=said) as caught:
            Arguments.of(names["f"])
        assert caught.value.cure

    def test_names_are_looked_up_at_the_first_call(self):
        cell = {"__name__": "__main__"}
        exec("from __future__ import annotations\ndef f(ctx, a: Later) -> Later: ...", cell)
        arguments, result = Arguments.of(cell["f"]), Result.of(cell["f"])  # type: ignore[arg-type] # made by exec
        message = problem(lambda: arguments.validate({"a": 1}))
        assert "`a` in `f`" in message
        assert "'Later'" in message
        with pytest.raises(ResultError, match="the result in `f`"):
            result.validate(1)
        exec("Later = int", cell)
        assert arguments.validate({"a": 1}) == {"a": 1}
        assert result.validate(1) == 1

    def test_names_of_an_enclosing_function(self):
        class Local(pydantic.BaseModel):
            n: int

        def f(ctx, a: Local, b: list["Local"] | None = None) -> Local:  # noqa: UP037 # a name in a name
            raise NotImplementedError

        value = Local(n=1)
        assert Arguments.of(f).validate({"a": value, "b": [value]}) == {"a": value, "b": [value]}
        assert Result.of(f).validate(value) is value

    def test_a_hint_that_cannot_be_checked(self):
        def f(ctx, a: 3): ...  # type: ignore[valid-type] # on purpose

        assert "the type hint of `a` in `f` cannot be" in problem(lambda: Arguments.of(f).validate({"a": 1}))

    def test_names_that_pydantic_uses_itself(self):
        def f(ctx, schema: int, model_config: int, self: int, _id: str, copy: int = 1): ...

        values = {"schema": 1, "model_config": 2, "self": 3, "_id": "x"}
        assert Arguments.of(f).validate(values) == values


class TestArguments:
    def test_what_fits(self):
        values = {"text": "x", "limit": 3, "items": [Item(title="t")], "tag": "b"}
        assert Arguments.of(send).validate(values) == values
        assert Arguments.of(send).validate({"text": "x"}) == {"text": "x"}, "defaults are the function's own"

    @pytest.mark.parametrize("wrong", ["5", 5.0, True, None, [5]])
    def test_an_int_is_an_int(self, wrong):
        with pytest.raises(ArgumentsError):
            Arguments.of(send).validate({"text": "x", "limit": wrong})

    def test_an_int_does_for_a_float(self):
        def f(ctx, a: float): ...

        assert Arguments.of(f).validate({"a": 3}) == {"a": 3.0}

    def test_without_hints_anything(self):
        values = {"a": object(), "b": object(), "c": object()}
        assert Arguments.of(anything).validate(values) == values

    def test_missing(self):
        assert problem(lambda: Arguments.of(send).validate({})) == (
            "`send`: Object is missing the required field `text`"
        )

    def test_extra_names_the_nearest(self):
        message = problem(lambda: Arguments.of(send).validate({"text": "x", "limt": 3}))
        assert message == "`send`: Object contains extra field `limt` (did you mean `limit`?)"
        assert problem(lambda: Arguments.of(send).validate({"text": "x", "zzz": 3})).endswith("extra field `zzz`")

    def test_type(self):
        message = problem(lambda: Arguments.of(send).validate({"text": "x", "limit": "5"}))
        assert message == "`send`: Value does not match: `limit` is str '5', and int was expected"

    def test_path(self):
        values = {"text": "x", "items": [Item(title="a"), {"title": 3}, {}]}
        message = problem(lambda: Arguments.of(send).validate(values))
        assert "`items[1].title` is int 3, and str was expected" in message
        assert "Object is missing the required field `items[2].title`" in message

    def test_all_problems_in_one_error_with_the_signature(self):
        with pytest.raises(InputError) as caught:
            Arguments.of(send).validate({"limit": "5", "tag": "c", "zzz": 1})
        for name in ("text", "limit", "tag", "zzz"):
            assert f"`{name}`" in caught.value.message
        assert caught.value.cure.startswith("Call it as send(text: str, limit: int = 50")

    def test_unions_are_told_once(self):
        def f(ctx, a: int | str | None, b: Point | Item): ...

        message = problem(lambda: Arguments.of(f).validate({"a": 2.5, "b": {"q": 1}}))
        assert message.count("`a` is float 2.5, and int | str | None was expected") == 1
        assert message.count("Value does not match: `b`") == 1
        assert "Point | Item was expected" in message

    def test_constraints_and_checks_of_ones_own(self):
        def refuse(text: str) -> str:
            raise ValueError("this id is of another table")

        def f(ctx, a: Annotated[int, pydantic.Field(gt=0)], b: Annotated[str, pydantic.AfterValidator(refuse)]): ...

        message = problem(lambda: Arguments.of(f).validate({"a": 0, "b": "x"}))
        assert "`a` is int 0, and should be greater than 0" in message
        assert "`b` is str 'x', and this id is of another table" in message

    def test_context_reaches_the_validators(self):
        def scale(value: int, info: pydantic.ValidationInfo) -> int:
            assert isinstance(info.context, dict)
            return value * int(info.context["factor"])

        def f(ctx, a: Annotated[int, pydantic.AfterValidator(scale)], **rest: int): ...
        def g(ctx, a: Annotated[int, pydantic.AfterValidator(scale)]): ...

        for function in (f, g):
            arguments = Arguments.of(function)
            assert arguments.validate({"a": 2}, context={"factor": 3}) == {"a": 6}
            assert arguments.from_json('{"a": 2}', context={"factor": 3}) == {"a": 6}

    def test_long_values_are_cut_and_keys_removed(self, monkeypatch):
        monkeypatch.setattr(settings, "_scanned", -math.inf)
        monkeypatch.setenv("SOME_API_KEY", "sk-abcdefghijklmnopqrstuvwxyz0123")
        secret = "x" * 60 + "sk-abcdefghijklmnopqrstuvwxyz0123"
        message = problem(lambda: Arguments.of(send).validate({"text": "x", "limit": secret}))
        assert "sk-" not in message
        assert "***" in message
        assert "sk-" not in problem(lambda: Arguments.of(send).validate({"text": "x", "limit": [secret]}))
        message = problem(lambda: Arguments.of(send).validate({"text": "x", "limit": "y" * 1000}))
        assert "y" * 70 in message
        assert "y" * 80 not in message

    def test_a_value_whose_repr_fails(self):
        class Bad:
            def __repr__(self) -> str:
                raise RuntimeError

        assert "`limit` is Bad" in problem(lambda: Arguments.of(send).validate({"text": "x", "limit": Bad()}))

    def test_extra_fields_of_a_hint(self):
        def f(ctx, a: int, **rest: dict[str, int]): ...

        arguments = Arguments.of(f)
        assert arguments.validate({"a": 1, "b": {"c": 2}}) == {"a": 1, "b": {"c": 2}}
        for message in (
            problem(lambda: arguments.validate({"a": "1", "b": {"c": "2"}})),
            problem(lambda: arguments.from_json('{"a": "1", "b": {"c": "2"}}')),
        ):
            assert "`a` is str '1', and int was expected" in message
            assert "`b.c` is str '2', and int was expected" in message


def kinds(
    ctx: Any,
    at: datetime.datetime,
    day: datetime.date,
    span: datetime.timedelta,
    id: uuid.UUID,
    raw: bytes,
    raws: list[bytes],
    price: decimal.Decimal,
    some: set[int],
    pair: tuple[int, str],
    color: Color,
    number: float,
    by_number: dict[int, Item],
    point: Point | None,
    free: Any,
    **rest: bytes,
) -> None: ...


class TestJson:
    def test_values_survive(self):
        arguments = Arguments.of(kinds)
        values = {
            "at": datetime.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=datetime.UTC),
            "day": datetime.date(2026, 1, 2),
            "span": datetime.timedelta(days=1, microseconds=5),
            "id": uuid.uuid4(),
            "raw": b"\xff\x00",
            "raws": [b"\xff", b""],
            "price": decimal.Decimal("1.10"),
            "some": {1, 2},
            "pair": (1, "a"),
            "color": Color.RED,
            "number": math.inf,
            "by_number": {1: Item(title="x")},
            "point": Point(1),
            "free": [1, {"a": None}],
            "more": b"\xfe",
        }
        text = arguments.to_json(arguments.validate(values))
        assert arguments.from_json(text) == values
        assert str(arguments.from_json(text)["price"]) == "1.10"

    @given(
        st.fixed_dictionaries(
            {
                "a": st.text(st.characters(exclude_categories=["Cs"])),
                "b": st.binary(),
                "c": st.integers(),
                "d": st.floats(allow_nan=False),
                "e": st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.booleans() | st.none()),
            }
        )
    )
    def test_any_values_survive(self, values):
        assert MIXED.from_json(MIXED.to_json(values)) == values

    def test_json_is_strict(self):
        assert "`limit` is str '5'" in problem(lambda: Arguments.of(send).from_json('{"text": "x", "limit": "5"}'))

    @pytest.mark.parametrize("text", ["", "[1", '{"text": '])
    @pytest.mark.parametrize("function", [send, anything])
    def test_no_json(self, text, function):
        assert "not JSON" in problem(lambda: Arguments.of(function).from_json(text))

    @pytest.mark.parametrize("function", [send, anything])
    def test_no_object(self, function):
        assert "are list [1], and a JSON object was expected" in problem(
            lambda: Arguments.of(function).from_json("[1]")
        )

    def test_what_cannot_be_written_is_named(self):
        for value in (object(), "\ud800"):
            message = problem(lambda value=value: Arguments.of(anything).to_json({"a": 1, "b": value}))  # type: ignore[misc] # bound now
            assert "`b` is" in message
            assert "cannot be written as JSON" in message


def mixed(ctx: Any, a: str, b: bytes, c: int, d: float, e: dict[str, bool | None]) -> None: ...


MIXED = Arguments.of(mixed)


class TestWords:
    @pytest.mark.parametrize(
        ("hint", "word", "value"),
        [
            (str, "5", "5"),
            (str, "null", "null"),
            (str, '"x"', '"x"'),
            (Annotated[str, pydantic.Field(min_length=1)], "[1]", "[1]"),
            (Literal["a", "5"], "5", "5"),
            (int, "5", 5),
            (float, "5", 5.0),
            (bool, "true", True),
            (int | None, "null", None),
            (str | None, "5", "5"),
            (str | None, "null", None),
            (str | None, '"x"', '"x"'),
            (int | str, "5", 5),
            (int | str, "x", "x"),
            (Literal[1, 2], "2", 2),
            (list[int], "[1, 2]", [1, 2]),
            (dict[str, Any], '{"a": 1}', {"a": 1}),
            (set[int], "[1, 2]", {1, 2}),
            (tuple[int, str], '[1, "a"]', (1, "a")),
            (Item, '{"title": "x"}', Item(title="x")),
            (Point, '{"x": 1}', Point(1)),
            (Color, "red", Color.RED),
            (decimal.Decimal, "1.10", decimal.Decimal("1.10")),
            (datetime.date, "2026-01-02", datetime.date(2026, 1, 2)),
            (uuid.UUID, "12345678123456781234567812345678", uuid.UUID("12345678123456781234567812345678")),
            (Any, "[1]", [1]),
            (Any, "5", 5),
            (Any, "five", "five"),
        ],
    )
    def test_a_word_is_read_by_the_hint(self, hint, word, value):
        def f(ctx, a): ...

        f.__annotations__ = {"a": hint}
        read = Arguments.of(f).from_words({"a": word})["a"]
        assert read == value
        assert type(read) is type(value)
        assert str(read) == str(value)

    def test_what_cannot_be_read(self):
        message = problem(lambda: Arguments.of(send).from_words({"text": "5", "limit": "x", "lmit": "1"}))
        assert "`limit` is str 'x', and int was expected" in message
        assert "extra field `lmit` (did you mean `limit`?)" in message

    def test_extra_words(self):
        def f(ctx, **rest: int): ...

        assert Arguments.of(f).from_words({"a": "5"}) == {"a": 5}


class TestResult:
    def test_without_a_hint_anything(self):
        value = object()
        assert Result.of(anything).validate(value) is value

    def test_none(self):
        def f(ctx) -> None: ...

        assert Result.of(f).validate(None) is None
        with pytest.raises(ResultError, match=r"`f` returned .* `result` is str 'x', and None was expected"):
            Result.of(f).validate("x")

    def test_path_type_and_expected(self):
        def f(ctx) -> list[Item]:
            raise NotImplementedError

        with pytest.raises(ResultError, match=r"`result\[1\]` is int 3, and Item was expected"):
            Result.of(f).validate([Item(title="x"), 3])
        with pytest.raises(ResultError, match=r"`result` is int 3, and list\[Item\] was expected"):
            Result.of(f).validate(3)

    def test_json(self):
        def f(ctx) -> list[Item]:
            raise NotImplementedError

        def g(ctx) -> Item:
            raise NotImplementedError

        def h(ctx) -> bytes:
            raise NotImplementedError

        value = [Item(title="x")]
        assert Result.of(f).from_json(Result.of(f).to_json(value)) == value
        assert Result.of(g).from_json(Result.of(g).to_json(value[0])) == value[0]
        assert Result.of(h).from_json(Result.of(h).to_json(b"\xff")) == b"\xff"
        with pytest.raises(ResultError, match=r"`result\.title`"):
            Result.of(g).from_json("{}")

    @pytest.mark.parametrize("hint", [None, int])
    def test_writing_never_fails(self, hint):
        class Bad:
            def __repr__(self) -> str:
                raise RuntimeError

        def f(ctx): ...

        if hint:
            f.__annotations__ = {"return": hint}
        result = Result.of(f)
        circle: list[object] = []
        circle.append(circle)
        assert json.loads(result.to_json({"a": {1}, "b": b"\xff"})) == {"a": [1], "b": "_w=="}
        assert list(json.loads(result.to_json({"a": object()}))["a"]) == ["__repr__"]
        for value in (object(), circle, "\ud800", Bad()):
            text = result.to_json(value)
            assert list(json.loads(text)) == ["__repr__"]
            assert result.from_json(text) == json.loads(text)


def test_nearest():
    names = ["load_messages", "save_response", "send_message"]
    assert nearest("load_mesages", names)[0] == "load_messages"
    assert nearest("Send_Message", names)[0] == "send_message"
    assert nearest("zzz", names) == []
