"""What is wrong with a configuration: each finding of the validator as one plain line."""

import dataclasses
import difflib
import itertools
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from jtl.config import explain
from jtl.config.dialect import KeyPath
from jtl.config.document import Document, dotted

# Findings that say only "another kind of value": the ones that rule out a union's alternative.
_OTHER_KIND = ("_type", "_parsing", "literal_error", "none_required", "enum")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Branch:
    path: KeyPath
    hint: Any
    tag: str | int


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Finding:
    path: KeyPath
    order: int
    hints: tuple[Any, ...]  # one more than path: the type of the whole, then of each step
    kind: str
    value: Any
    details: dict[str, Any]
    branches: tuple[_Branch, ...] = ()


def lines(cls: type, document: Document, error: ValidationError) -> list[str]:
    """One line for each problem: where it is, what is wrong, what is allowed, its origin.

    Args:
        cls: the dataclass that was to be built.
        document: the values that were given, for their origins.
        error: from validating `[values]` as `list[cls]`.
    """
    details = enumerate(error.errors(include_url=False))
    findings = _one_alternative_each([_locate(cls, order, dict(each)) for order, each in details])
    findings = [each for each in findings if not _is_consequence(each, findings)]
    findings.sort(key=lambda finding: finding.order)
    return list(dict.fromkeys(_sentence(cls, document, finding) for finding in findings))


def _locate(cls: type, order: int, details: dict[str, Any]) -> _Finding:
    hints: list[Any] = [cls]
    path: KeyPath = ()
    branches: list[_Branch] = []
    for step in details["loc"][1:]:
        alternatives = _alternatives(hints[-1])
        if len(alternatives) > 1:
            branches.append(_Branch(path=path, hint=hints[-1], tag=step))
            tagged = [each for each in alternatives if _is_tagged(each, str(step))]
            hints[-1] = tagged[0] if tagged else None
        else:
            hints.append(explain.child(hints[-1], step))
            path += (step,)
    return _Finding(
        path=path,
        order=order,
        hints=tuple(hints),
        kind=details["type"],
        value=details["input"],
        details=details,
        branches=tuple(branches),
    )


def _alternatives(hint: Any) -> list[Any]:
    members = explain.get_union(explain.bare(hint))
    return [each for each in members if each is not type(None)]


def _is_tagged(hint: Any, tag: str) -> bool:
    # The validator names an alternative by its class, its discriminating literal or its type.
    inner = explain.bare(hint)
    if dataclasses.is_dataclass(inner):
        options = explain.field_types(inner).values()
        literals = [get_args(each) for each in options if get_origin(each) is Literal]
        return tag == getattr(inner, "__name__", None) or any(tag in each for each in literals)
    kind = getattr(get_origin(inner) or inner, "__name__", "")
    return tag.removeprefix("constrained-") == kind or tag.startswith(f"{kind}[")


def _one_alternative_each(findings: Sequence[_Finding], depth: int = 0) -> list[_Finding]:
    """Keeps, of every union that nothing fitted, the alternative that was most likely meant."""
    kept: list[_Finding] = []
    unions: dict[KeyPath, dict[str | int, list[_Finding]]] = {}
    for finding in findings:
        if len(finding.branches) <= depth:
            kept.append(finding)
            continue
        branch = finding.branches[depth]
        unions.setdefault(branch.path, {}).setdefault(branch.tag, []).append(finding)
    for path, by_tag in unions.items():
        likely = [found for found in by_tag.values() if not _is_other_kind(found, path)]
        if likely:
            kept += _one_alternative_each(min(likely, key=len), depth + 1)
        else:
            first = next(iter(by_tag.values()))[0]
            hints = (*first.hints[: len(path)], first.branches[depth].hint)
            kept.append(dataclasses.replace(first, path=path, hints=hints))
    return kept


def _is_other_kind(findings: Sequence[_Finding], path: KeyPath) -> bool:
    return any(each.path == path and each.kind.endswith(_OTHER_KIND) for each in findings)


def _is_consequence(finding: _Finding, findings: Sequence[_Finding]) -> bool:
    # A list is called too short when its entries were refused, each with a line of its own.
    size = len(finding.path)
    return finding.kind == "too_short" and any(
        len(each.path) > size and each.path[:size] == finding.path and each.kind != "missing"
        for each in findings
    )


def _sentence(cls: type, document: Document, finding: _Finding) -> str:
    path, problem = _problem(cls, finding)
    origin = document.origin(path)
    if not path:
        return f"{origin or 'configuration'}: {problem}"
    return f"{dotted(path)}: {problem}{f' ({origin})' if origin else ''}"


def _problem(cls: type, finding: _Finding) -> tuple[KeyPath, str]:
    path, kind, hint = finding.path, finding.kind, finding.hints[-1]
    context = finding.details.get("ctx", {})
    if kind == "json_invalid":
        return (), f"holds text that is not valid Unicode ({context.get('error')})"
    if kind == "unexpected_keyword_argument":
        return path, _unknown_option(cls, finding)
    if kind in ("value_error", "assertion_error"):
        return path, str(context["error"]).rstrip(".")
    if kind.startswith("union_tag"):
        tag_path = (*path, context["discriminator"].strip("'"))
        given = f"{context['tag']!r} is not allowed" if "tag" in context else "missing"
        return tag_path, f"{given}; give {_tags(hint, tag_path[-1])}"
    if path and path[-1] == "[key]":
        key_type = next(iter(get_args(explain.bare(finding.hints[-3]))), None)
        return path[:-2], f"the key {path[-2]!r} is not allowed; {_allowed(finding, key_type)}"
    if kind == "missing" and isinstance(path[-1], int):
        path, hint = path[:-1], finding.hints[-2]  # a list that is too short, given as the value
    elif kind.startswith("missing"):
        return path, f"missing; give {explain.describe(hint)}"
    return path, f"{_show(finding.value)} is not allowed; {_allowed(finding, hint)}"


def _allowed(finding: _Finding, hint: Any) -> str:
    if hint is None:
        return str(finding.details["msg"])
    words = f"give {explain.describe(hint)}"
    return words.replace("a number", "a finite number") if "finite" in finding.kind else words


def _tags(hint: Any, option: str | int) -> str:
    kinds = [explain.child(each, option) for each in _alternatives(hint)]
    return " or ".join(explain.describe(kind) for kind in kinds)


def _unknown_option(cls: type, finding: _Finding) -> str:
    name, parent = str(finding.path[-1]), explain.bare(finding.hints[-2])
    siblings = list(explain.field_types(parent)) if dataclasses.is_dataclass(parent) else []
    if close := difflib.get_close_matches(name, siblings, n=1):
        return f"there is no such option; did you mean {dotted((*finding.path[:-1], close[0]))}?"
    below = ((*finding.path[:-1], *path) for path in explain.every_option(parent))
    everywhere = itertools.chain(below, explain.every_option(cls))
    elsewhere = list(dict.fromkeys(dotted(path) for path in everywhere if path[-1] == name))
    if elsewhere:
        return f"there is no such option here; did you mean {' or '.join(elsewhere[:3])}?"
    return f"there is no such option; there are {', '.join(siblings) or 'none'}"


def _show(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
