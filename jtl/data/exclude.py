"""What `check.json` says of examples that training leaves out."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jtl.data.sources.names import shown
from jtl.data.sources.protocol import Source
from jtl.errors import DataError

# The first entry of every check.json; another number, another meaning of its keys.
CHECK_FORMAT = "jtl check 1"
_TOLD = 5  # problems or names, of many


def excluded(source: Source, path: Path) -> np.ndarray:
    """The examples that a `check.json` marks as not to be trained on or evaluated with.

    Of each of its findings where `exclude` is true, these are the names under `drop`.

    Args:
        source: the examples, as `jtl check` saw them.
        path: of the file, as it was written or edited by hand.

    Returns:
        Int `[n]`, sorted, each once.

    Raises:
        DataError: the file cannot be read, is not what `jtl check` writes, or is about other
            examples; all that is wrong in it at once.
    """
    where = shown(str(path))
    names, fingerprint = _read(path, where)
    if fingerprint != source.fingerprint:
        raise DataError(
            f"data.exclude: {where} was made of other examples, or of these before they were "
            "changed; run jtl check on them again, or set data.exclude to null."
        )
    places = {source.name(index): index for index in range(len(source))}
    if unknown := [name for name in names if name not in places]:
        raise DataError(
            f"data.exclude: {where} leaves out examples that are not there "
            f"({len(unknown)}): {_first(unknown)}; take them out of it, or run jtl check again."
        )
    return np.array(sorted({places[name] for name in names}), int)


def _read(path: Path, where: str) -> tuple[list[str], str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"data.exclude: there is no {where}; jtl check DATA writes one.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"data.exclude: {where} cannot be read: {error}.") from error
    if not isinstance(content, dict) or content.get("format") != CHECK_FORMAT:
        raise DataError(
            f"data.exclude: {where} is not what this version's jtl check writes "
            f'("format": "{CHECK_FORMAT}"); run jtl check again.'
        )
    findings, problems = content.get("findings"), list[str]()
    if not isinstance(findings, list):
        findings, problems = [], ["findings is no list"]
    names = []
    for place, finding in enumerate(findings):
        problem = _problem(finding)
        if problem:
            problems.append(f"findings[{place}] {problem}")
        elif finding["exclude"]:
            names += finding["drop"]
    if not isinstance(content.get("fingerprint"), str):
        problems.append("fingerprint is no text")
    if problems:
        raise DataError(f"data.exclude: {where}: {_first(problems, '; ')}.")
    return names, content["fingerprint"]


def _problem(finding: Any) -> str | None:
    if not isinstance(finding, dict):
        return "is no object"
    if not isinstance(finding.get("exclude"), bool):
        return "needs exclude: true or false"
    drop = finding.get("drop")
    if not isinstance(drop, list) or not all(isinstance(name, str) for name in drop):
        return "needs drop: a list of names"
    return None


def _first(texts: list[str], between: str = ", ") -> str:
    more = f"{between}and {len(texts) - _TOLD} more" if len(texts) > _TOLD else ""
    return between.join(shown(text) for text in texts[:_TOLD]) + more
