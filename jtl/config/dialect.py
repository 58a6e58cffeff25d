"""The YAML that recipes are written in: 1.2 numbers and booleans, no aliases, no repeated keys."""

import re
from typing import Any, ClassVar

import yaml

from jtl.errors import ConfigError

KeyPath = tuple[str | int, ...]

_PREFIX = "tag:yaml.org,2002:"
_FLOAT = re.compile(
    r"[-+]?(?:\.\d+|\d+(?:\.\d*)?)(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf|INF)|\.nan|\.NaN|\.NAN"
)
_INT = re.compile(r"[-+]?\d+|0o[0-7]+|0x[0-9a-fA-F]+")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_NULL = re.compile(r"~|null|Null|NULL|")


class _Loader(yaml.SafeLoader):
    # YAML 1.1, which PyYAML follows, reads 1e-3 as text, 1:30 as 90 and `no` as false.
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

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


# In this order: the first that matches decides, and every integer matches the float's form too.
for _tag, _pattern in (("int", _INT), ("float", _FLOAT), ("bool", _BOOL), ("null", _NULL)):
    _whole = re.compile(rf"(?:{_pattern.pattern})\Z")
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"{_PREFIX}{_tag}", _whole, None)
_Dumper.add_representer(list, _short_lists_in_one_line)


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
    if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
        try:
            return _SCALARS[kind](node.value)
        except (ValueError, KeyError):
            problems.append(f"{place}: {node.value[:40]!r} cannot be read as {kind}.")
            return None
    problems.append(f"{place}: the tag {node.tag!r} is not read here; write the plain value.")
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
    if len(text) > 80:
        raise ValueError("no option is this large, and Python refuses to print it")
    return int(text, 0) if text.startswith(("0x", "0o")) else int(text)


def _number(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS = {
    "null": lambda _: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": _integer,
    "float": _number,
    "str": str,
}
