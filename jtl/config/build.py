"""From a document to a checked instance of any frozen dataclass, and back to plain values."""

import dataclasses
import functools
import json
from pathlib import PurePath
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from jtl.config import problems
from jtl.config.document import Document
from jtl.errors import ConfigError

Options = TypeVar("Options")


def build(cls: type[Options], document: Document) -> Options:
    """An instance of the dataclass from what was written, every value checked.

    Types are taken strictly: text is no number and 3.0 is no integer, but 3 is a number and a
    list becomes a tuple. NaN and infinity are refused unless annotated `AllowInfNan(True)`.
    A ValueError from a class's `__post_init__` is reported at its place.

    Args:
        cls: a dataclass of stdlib types, `Annotated` limits, literals, unions and dataclasses.
        document: what `read_document` or `override` gave, or values from Python, among which
            paths and instances of the dataclasses may stand too.

    Raises:
        ConfigError: one line for each unknown or missing option and each value that is not
            allowed, with where it was written and what is allowed.
    """
    first: Options = _validated(cls, document.values, document)
    # Defaults pass the first time unread; the second brings 1 for a float to 1.0 and checks them.
    checked: Options = _validated(cls, _plain(first), document)
    return checked


def to_dict(instance: Any) -> dict[str, Any]:
    """Every option as dict, list, str, int, float, bool or None, in the order of the fields.

    Raises:
        ConfigError: the instance was made by hand with a value that is not allowed.
    """
    values = _plain(instance)
    return _plain(_validated(type(instance), values, Document(values=values)))


@functools.cache
def adapter(cls: Any) -> TypeAdapter[list[Any]]:
    """The validator of `[instance]`: a list, because a plain dataclass takes no settings itself."""
    settings = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, ser_json_inf_nan="constants"
    )
    return TypeAdapter(list[cls], config=settings)


def _validated(cls: Any, values: dict[str, Any], document: Document) -> Any:
    # As JSON, whose strict rules take a list for a tuple and a text for a path.
    text = json.dumps([values], default=_from_python)
    try:
        return adapter(cls).validate_json(text)[0]
    except ValidationError as error:
        raise ConfigError("\n".join(problems.lines(cls, document, error))) from None
    except ConfigError as error:  # of a class's own check, which tells no place
        raise ConfigError(f"{document.origin(()) or 'configuration'}: {error}") from None


def _from_python(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(value)
    raise ConfigError(
        f"{value!r:.60} is {type(value).__name__}, which no configuration file can hold; "
        "give numbers, text, lists, mappings and options."
    )


def _plain(instance: Any) -> dict[str, Any]:
    # Without warnings: what does not fit its type is an error when it is validated again.
    cls: Any = type(instance)
    dumped = adapter(cls).dump_python([instance], mode="json", warnings="none")
    return dict(dumped[0])
