"""A checked configuration written down: YAML, its JSON Schema, its digest and what differs."""

import hashlib
import inspect
import json
import re
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import DataclassSchema

from jtl.config import dialect
from jtl.config.build import adapter, to_dict
from jtl.config.dialect import KeyPath
from jtl.config.document import dotted


def to_yaml(instance: Any) -> str:
    """The whole configuration with its defaults, which builds an equal instance again."""
    return dialect.dump(to_dict(instance))


def digest(instance: Any) -> str:
    """SHA-256 of the configuration's canonical JSON, as hex: equal for equal instances."""
    text = json.dumps(to_dict(instance), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def options_of(instance: Any) -> dict[str, Any]:
    """Every option by its dotted key as `--set` takes it, such as `train.phases.0.rate`."""
    leaves = _leaves(to_dict(instance), ())
    return {".".join(map(str, path)): leaf for path, leaf in leaves.items()}


def difference(first: Any, second: Any) -> list[str]:
    """One line for each option that differs: `train.phases[0].rate: 0.1 → 0.01`."""
    left, right = _leaves(to_dict(first), ()), _leaves(to_dict(second), ())
    lines = []
    for path in dict.fromkeys([*left, *right]):
        a, b = (json.dumps(each[path]) if path in each else "nothing" for each in (left, right))
        if a != b:
            lines.append(f"{dotted(path)}: {a} → {b}")
    return lines


def json_schema(cls: type) -> dict[str, Any]:
    """The JSON Schema of the dataclass's YAML, from which editors complete keys.

    Options are described by the `Attributes:` sections of the classes' docstrings.
    """
    schema = adapter(cls).json_schema(schema_generator=_DescribedSchema)
    whole = {"$schema": _DescribedSchema.schema_dialect, **schema.pop("items")}
    return {**whole, "$defs": schema.get("$defs", {})}


class _DescribedSchema(GenerateJsonSchema):
    def dataclass_schema(self, schema: DataclassSchema) -> JsonSchemaValue:
        described = super().dataclass_schema(schema)
        docstring = inspect.getdoc(schema["cls"]) or ""
        described["description"] = docstring.split("\n\n")[0].replace("\n", " ")
        for name, text in _attributes(docstring).items():
            if name in described.get("properties", {}):
                described["properties"][name].setdefault("description", text)
        return described


def _attributes(docstring: str) -> dict[str, str]:
    section = re.search(r"^Attributes:\n((?:(?: .*)?\n?)*)", docstring, re.MULTILINE)
    entries = re.split(
        r"^ {4}(\w+)(?: \(.*\))?: ", section[1] if section else "", flags=re.MULTILINE
    )
    return {name: " ".join(text.split()) for name, text in zip(entries[1::2], entries[2::2])}


def _leaves(value: Any, path: KeyPath) -> dict[KeyPath, Any]:
    entries: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        entries = list(enumerate(value))
    if not entries:
        return {path: value}
    return {p: leaf for step, each in entries for p, leaf in _leaves(each, (*path, step)).items()}
