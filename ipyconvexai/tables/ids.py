"""Ids in type hints: ``Id[Note]`` is a text that is the id of a note. Calls the room's registry.

Promises: pydantic takes a UUID's text, in lower case then, and nothing else; the table can be found in the hint's
metadata, also where it is defined later (``Id["Note"]``). Whether an id is really one of that table is judged where
the numbers of tables are known: in ``database``, and in arguments and results of functions.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeAlias, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from ipyconvexai.tables import registry

__all__ = ["Id", "IdOf", "proper_id"]

T = TypeVar("T")


class IdOf:
    """Metadata of a hint: the text is an id of `target`, a table's class or its name; None: of any row."""

    __slots__ = ("target",)

    def __init__(self, target: Any) -> None:
        self.target = target.__forward_arg__ if hasattr(target, "__forward_arg__") else target

    def table(self) -> Any:
        """The table's class, the newest of its name; None where it is not defined (yet), or where any may be."""
        if self.target is None:
            return None
        if isinstance(self.target, str):
            return registry.find(self.target)
        return registry.find(self.target.__table_name__) or self.target

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdOf) and self._name() == other._name()

    def __hash__(self) -> int:
        return hash(self._name())

    def __repr__(self) -> str:
        return f"IdOf({self._name()})"

    def _name(self) -> str:
        return str(getattr(self.target, "__name__", self.target))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self._check, core_schema.str_schema())

    def _check(self, text: str, info: ValidationInfo) -> str:
        """The runner says in the context which tables there are; elsewhere only the form can be judged."""
        try:
            text = proper_id(text)
        except ValueError:
            raise PydanticCustomError("id", "Value does not match: it is no id, which is the text of a UUID") from None
        table, catalog = self.table(), (info.context or {}).get("catalog")
        if table is not None and catalog is not None and (other := catalog.other_table(table, text)) is not None:
            raise PydanticCustomError(
                "id_of_another_table",
                "Value does not match: it is an id of {other}, and one of {table} was expected",
                {"other": other, "table": table.__table_name__},
            )
        return text

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "format": "uuid"}


def proper_id(text: str) -> str:
    """`text` as ids are written: 36 characters in lower case.

    Raises:
        ValueError: it is no UUID.
    """
    return str(uuid.UUID(text))


if TYPE_CHECKING:

    class _OneOf(str, Generic[T]): ...

    Id: TypeAlias = str | _OneOf[T]  # any str will do for a type checker: only pydantic knows more
else:

    class Id:
        """``Id[Note]``, or ``Id["Note"]`` where the class comes later: the id of a document of that table."""

        def __class_getitem__(cls, target: Any) -> Any:
            return Annotated[str, IdOf(target)]
