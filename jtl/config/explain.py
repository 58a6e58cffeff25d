"""What an option may be, in words, read from its annotated type."""

import dataclasses
import enum
import types
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types

from jtl.config.dialect import KeyPath

_SCALARS = {
    int: "an integer",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
}


def describe(hint: Any) -> str:
    """What a value of this type is, such as `a number greater than 0` or `'sgd' or 'adamw'`."""
    if get_origin(hint) is Annotated:
        inner, *extras = get_args(hint)
        limits = [text for extra in extras for text in _limits(extra, inner)]
        head, each, entry = describe(inner).partition(", each ")
        return " ".join([head, *_joined(limits)]) + each + entry
    if alternatives := get_union(hint):
        return " or ".join(dict.fromkeys(describe(each) for each in alternatives))
    if get_origin(hint) is Literal:
        return _one_of(get_args(hint))
    if dataclasses.is_dataclass(hint):
        return f"a mapping with keys among ({', '.join(field_types(hint))})"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _one_of([member.value for member in hint])
    if isinstance(hint, type) and issubclass(hint, PurePath):
        return "a path"
    return _SCALARS.get(hint) or _describe_container(hint)


def field_types(cls: Any) -> dict[str, Any]:
    """The options of a dataclass and their annotated types, in the order of their fields."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def bare(hint: Any) -> Any:
    """The type without `Annotated`, and without None where that leaves one alternative."""
    if get_origin(hint) is Annotated:
        return bare(get_args(hint)[0])
    alternatives = [each for each in get_union(hint) if each is not type(None)]
    return bare(alternatives[0]) if len(alternatives) == 1 else hint


def get_union(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union; nothing for another type."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ()


def child(hint: Any, step: str | int) -> Any:
    """The type of one entry of a container, or of one option; None if it cannot be told."""
    hint = bare(hint)
    if dataclasses.is_dataclass(hint):
        return field_types(hint).get(str(step))
    arguments = get_args(hint)
    if is_mapping(hint):
        return arguments[1] if len(arguments) == 2 else None
    if get_origin(hint) is tuple and Ellipsis not in arguments:
        return arguments[step] if isinstance(step, int) and step < len(arguments) else None
    return arguments[0] if arguments else None


def is_mapping(hint: Any) -> bool:
    """Whether the type is a dict of any keys."""
    kind = get_origin(hint) or hint
    return isinstance(kind, type) and issubclass(kind, Mapping)


def every_option(hint: Any, seen: tuple[Any, ...] = ()) -> Iterator[KeyPath]:
    """The path of each option in a type and all that it holds; of a list the first entry's."""
    for inner in (bare(each) for each in get_union(bare(hint)) or (hint,)):
        if get_origin(inner) in (tuple, list):
            yield from ((0, *rest) for rest in every_option(child(inner, 0), seen))
        elif dataclasses.is_dataclass(inner) and inner not in seen:
            for name, option in field_types(inner).items():
                yield (name,)
                yield from ((name, *rest) for rest in every_option(option, (*seen, inner)))


def _describe_container(hint: Any) -> str:
    arguments = get_args(hint)
    if is_mapping(hint):
        return f"a mapping, each value {describe(arguments[1])}" if arguments else "a mapping"
    if get_origin(hint) is tuple and Ellipsis not in arguments:
        entries = ", ".join(describe(each) for each in arguments)
        return f"a list of {len(arguments)} entries ({entries})"
    if arguments:
        return f"a list, each entry {describe(arguments[0])}"
    return getattr(hint, "__name__", str(hint))


def _limits(extra: Any, hint: Any) -> Iterator[str]:
    # A grouped one (Interval, Len) iterates over its parts, pydantic's Field keeps them aside.
    if isinstance(extra, annotated_types.GroupedMetadata) or hasattr(extra, "metadata"):
        for part in extra.metadata if hasattr(extra, "metadata") else extra:
            yield from _limits(part, hint)
    unit = "characters" if bare(hint) is str else "entries"
    match extra:
        case annotated_types.Gt(gt=limit):
            yield f"greater than {limit}"
        case annotated_types.Ge(ge=limit):
            yield f"of at least {limit}"
        case annotated_types.Lt(lt=limit):
            yield f"less than {limit}"
        case annotated_types.Le(le=limit):
            yield f"of at most {limit}"
        case annotated_types.MultipleOf(multiple_of=factor):
            yield f"that is a multiple of {factor}"
        case annotated_types.MinLen(min_length=least) if least:
            yield f"of at least {least} {unit}"
        case annotated_types.MaxLen(max_length=most) if most is not None:
            yield f"of at most {most} {unit}"


def _joined(limits: list[str]) -> list[str]:
    # "of at least 0 and of at most 1" reads as English without the second "of".
    rest = [text.removeprefix("of ") for text in limits[1:]]
    return [" and ".join([*limits[:1], *rest])] if limits else []


def _one_of(values: Any) -> str:
    texts = [repr(value) for value in values]
    return " or ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
