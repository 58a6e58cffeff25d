"""A configuration as it was written: plain values, and where each of them came from."""

import copy
import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jtl.config import dialect
from jtl.config.dialect import KeyPath
from jtl.errors import ConfigError

# A recipe has some kilobytes; this much is a weight file given by mistake.
_LARGEST = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """Values that nothing has checked yet; `Document(values={...})` makes one from Python.

    Attributes:
        values: nested dicts and lists of str, int, float, bool and None.
        origins: where the value at a path was written, such as `digits.yaml:12`.
    """

    values: dict[str, Any]
    origins: Mapping[KeyPath, str] = dataclasses.field(default_factory=dict)

    def origin(self, path: KeyPath) -> str | None:
        """Where this value, or the nearest one around it, was written; None if from Python."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return None


def dotted(path: KeyPath) -> str:
    """A path as people write it: `train.phases[0].rate`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def read_document(path: str | Path) -> Document:
    """Reads a YAML file; an empty one is an empty document.

    Raises:
        ConfigError: there is no such file, it is no YAML text, a key stands twice in one
            mapping, or its top level is not a mapping.
    """
    source = str(path)
    values, lines = dialect.parse(_read_text(Path(path)), source)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{source}: holds {_kind(values)}; give a mapping, one `key: value` a line."
        )
    origins = {place: f"{source}:{line}" for place, line in lines.items()}
    return Document(values=values, origins={(): source, **origins})


def override(document: Document, assignments: Sequence[str]) -> Document:
    """A copy of the document with values replaced, as `--set` does it.

    Args:
        document: left as it is.
        assignments: each `dotted.key=value`, the value in YAML; a number picks an entry of a
            list: `train.phases.0.epochs=3` or `train.phases[0].epochs=3`. Later ones win.

    Raises:
        ConfigError: one line for each assignment that cannot be read or has no such place.
    """
    values = copy.deepcopy(document.values)
    origins = dict(document.origins)
    problems = []
    for assignment in assignments:
        try:
            steps, value = _parse_assignment(assignment)
            path = _assign(values, steps, value)
        except ConfigError as error:
            problems.append(str(error))
            continue
        origins = {place: o for place, o in origins.items() if place[: len(path)] != path}
        origins[path] = f"--set {dotted(path)}"
    if problems:
        raise ConfigError("\n".join(problems))
    return Document(values=values, origins=origins)


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise ConfigError(f"{path}: larger than {_LARGEST >> 20} MiB, so it is no recipe.")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file{_nearby(path)}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8, so it is no recipe.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from None


def _nearby(path: Path) -> str:
    names = [other.name for other in path.parent.glob("*.y*ml")]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.with_name(close[0])}?" if close else ""


def _parse_assignment(assignment: str) -> tuple[list[str], Any]:
    key, equals, text = assignment.partition("=")
    steps = re.sub(r"\[(\d+)\]", r".\1", key.strip()).split(".")
    if not equals or not all(steps):
        raise ConfigError(
            f"--set {assignment}: not of the form key=value; write it like train.epochs=3."
        )
    source = f"--set {key.strip()}"
    try:
        value, _ = dialect.parse(text, source)
    except ConfigError as error:
        raise ConfigError(str(error).replace(f"{source}:1:", f"{source}:")) from None
    return steps, value


def _assign(values: dict[str, Any], steps: list[str], value: Any) -> KeyPath:
    node: Any = values
    path: KeyPath = ()
    for position, step in enumerate(steps):
        last = position == len(steps) - 1
        if isinstance(node, list):
            key: str | int = _index(node, step, path)
        elif isinstance(node, dict):
            key = step
            if not last and node.get(step) is None:
                node[step] = {}
        else:
            raise ConfigError(
                f"--set {dotted((*path, step))}: {dotted(path)} is {_kind(node)}, "
                "which has no entries of its own to set."
            )
        path = (*path, key)
        if last:
            node[key] = value
        else:
            node = node[key]
    return path


def _index(node: list[Any], step: str, path: KeyPath) -> int:
    if step.isdecimal() and int(step) < len(node):
        return int(step)
    has = f"entries 0 to {len(node) - 1}" if node else "no entries"
    raise ConfigError(f"--set {dotted((*path, step))}: {dotted(path)} is a list with {has}.")


def _kind(value: Any) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a mapping"
    return f"the single value {dialect.dump(value).split(chr(10))[0][:40]}"
