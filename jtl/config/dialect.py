"""The YAML that recipes are written in: 1.2 numbers and booleans, no aliases, no repeated keys."""

import math
import re
from collections.abc import Callable
from typing import Any

import yaml

from jtl.errors import ConfigError

KeyPath = tuple[str | int, ...]

_PREFIX = "tag:yaml.org,2002:"
# In this order: the first that matches decides, and every integer has the float's form too.
_FORMS = {
    "int": re.compile(r"(?:[-+]?\d+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    "float": re.compile(
        r"(?:[-+]?(?:\.\d+|\d+(?:\.\d*)?)(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf|INF)|\.nan|\.NaN)\Z"
    ),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
    "str": re.compile(r"(?s:.*)\Z"),
}

# No option is larger, and Python refuses to print an integer of 4,300 digits.
_LONGEST = {"int": 80}


class _Loader(yaml.SafeLoader):
    # YAML 1.1, which PyYAML follows, reads 1e-3 as text, 1:30 as 90 and `no` as false.
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own attribute)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # A few nested aliases expand to gigabytes, and a recipe that needs none reads better.
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not read here; write the value out", problem_mark=mark
            )
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    # Keeps PyYAML's own resolvers too, so that a text such as `no` is quoted for other readers.
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _short_lists_in_one_line(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    flow = not any(isinstance(entry, dict | list) for entry in data)
    return dumper.represent_sequence(f"{_PREFIX}seq", data, flow_style=flow)


def _escaped_unless_printable(dumper: yaml.SafeDumper, data: str) -> yaml.Node:
    # In its other styles PyYAML writes rare line separators bare, and reads them back as spaces.
    style = None if data.isprintable() else '"'
    return dumper.represent_scalar(f"{_PREFIX}str", data, style=style)


for _class in (_Loader, _Dumper):
    for _tag in ("int", "float", "bool", "null"):
        _class.add_implicit_resolver(f"{_PREFIX}{_tag}", _FORMS[_tag], None)
_Dumper.add_representer(list, _short_lists_in_one_line)
_Dumper.add_representer(str, _escaped_unless_printable)


def parse(text: str, source: str) -> tuple[Any, dict[KeyPath, int]]:
    """Plain values from YAML text, and the line of every key and list entry.

    Args:
        text: one YAML document; nothing at all is None.
        source: what error messages call the text, such as its file.

    Returns:
        The values (dict, list, str, int, float, bool, None) and the 1-based line of each path.

    Raises:
        ConfigError: the text is not YAML, repeats a key, or uses aliases or tags.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_syntax_problem(error, source)) from None
    except yaml.YAMLError as error:
        reason = getattr(error, "reason", str(error))
        raise ConfigError(f"{source}: this is not readable as YAML: {reason}.") from None
    except RecursionError:
        raise ConfigError(f"{source}: nested too deep to be a recipe.") from None
    if root is None:
        return None, {}
    lines: dict[KeyPath, int] = {}
    problems: list[str] = []
    values = _plain(root, (), source, lines, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return values, lines


def dump(values: Any) -> str:
    """YAML text that `parse` reads back to equal values, keys in the order they have."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _syntax_problem(error: yaml.MarkedYAMLError, source: str) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"{source}:{mark.line + 1}" if mark else source
    context = f" ({error.context})" if error.context else ""
    return f"{where}: this is not valid YAML: {error.problem}{context}."


def _plain(
    node: yaml.Node,
    path: KeyPath,
    source: str,
    lines: dict[KeyPath, int],
    problems: list[str],
) -> Any:
    place = f"{source}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode) and node.tag == f"{_PREFIX}map":
        return _mapping(node, path, source, lines, problems)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_PREFIX}seq":
        entries = []
        for index, entry in enumerate(node.value):
            lines[*path, index] = entry.start_mark.line + 1
            entries.append(_plain(entry, (*path, index), source, lines, problems))
        return entries
    kind = node.tag.removeprefix(_PREFIX)
    if not isinstance(node, yaml.ScalarNode) or kind not in _SCALARS:
        problems.append(f"{place}: the tag {node.tag!r} is not read here; write the plain value.")
    elif not _FORMS[kind].match(node.value) or len(node.value) > _LONGEST.get(kind, math.inf):
        problems.append(f"{place}: {node.value[:40]!r} cannot be read as {kind}.")
    else:
        return _SCALARS[kind](node.value)
    return None


def _mapping(
    node: yaml.MappingNode,
    path: KeyPath,
    source: str,
    lines: dict[KeyPath, int],
    problems: list[str],
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            problems.append(f"{source}:{line}: a key must be a single name, not a list or mapping.")
            continue
        here = (*path, key.value)
        if here in lines:
            problems.append(
                f"{source}:{line}: the key {key.value!r} stands in line {lines[here]} already; "
                "keep one of them."
            )
            continue
        lines[here] = line
        values[key.value] = _plain(value, here, source, lines, problems)
    return values


def _integer(text: str) -> int:
    return int(text, 0) if text.startswith(("0x", "0o")) else int(text)


def _number(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": lambda text: text.lower() == "true",
    "int": _integer,
    "float": _number,
    "str": str,
}
