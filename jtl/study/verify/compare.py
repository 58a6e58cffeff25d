"""Two runs of one config, compared bit by bit: examples, records, every leaf, the summary."""

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jtl.study.verify.examples import NAME, read_examples
from jtl.study.verify.start import RUN

# What a clock measured, and what a start says of itself.
_OF_THE_CLOCK = ("images_per_second", "seconds_left")
_OF_A_START = "cache"


def compare_examples(reference: Path, other: Path) -> Iterator[str]:
    """A line for each step that did not take what it took in the reference, however often.

    Args:
        reference: the folder of the run that was left alone.
        other: the folder of the one that was not.
    """
    expected = {record["step"]: record for record in read_examples(reference / NAME)}
    found = read_examples(other / NAME)
    for record in found:
        step = record["step"]
        if record == expected.get(step):
            continue
        if step not in expected:
            yield f"step {step}: took a batch, which the reference never did"
            continue
        what = ("example", "view")
        differs = [name for name in what if record.get(name) != expected[step].get(name)]
        if differs:
            name = differs[0]
            yield f"step {step}: {_first(name, expected[step].get(name), record.get(name))}"
        else:
            yield f"step {step}: took the same examples with another content"
    for step in sorted(expected.keys() - {record["step"] for record in found}):
        yield f"step {step}: took no batch"


def compare_records(reference: Path, other: Path) -> Iterator[str]:
    """A line for each record of `metrics.jsonl` that is not the reference's, speed left out.

    Args:
        reference: the folder of the run that was left alone.
        other: the folder of the one that was not.
    """
    pairs = itertools.zip_longest(_records(reference), _records(other))
    for number, (expected, found) in enumerate(pairs, 1):
        if expected is None or found is None:
            which = "left over" if expected is None else "missing"
            yield f"metrics.jsonl, record {number} on: {which}"
            return
        yield from (f"metrics.jsonl, record {number}: {line}" for line in _unlike(expected, found))


def compare_summaries(reference: Path, other: Path) -> Iterator[str]:
    """A line for each value of `best` and `final` in `summary.json` that is not the reference's.

    Args:
        reference: the folder of the run that was left alone.
        other: the folder of the one that was not.
    """
    for which in ("best", "final"):
        expected, found = (
            json.loads((folder / RUN / "summary.json").read_text(encoding="utf-8"))[which]
            for folder in (reference, other)
        )
        yield from (f"summary.json, {which}: {line}" for line in _unlike(expected, found))


def _records(folder: Path) -> list[dict[str, Any]]:
    text = (folder / RUN / "metrics.jsonl").read_text(encoding="utf-8")
    found = [json.loads(line) for line in text.splitlines()]
    return [
        {name: value for name, value in record.items() if name not in _OF_THE_CLOCK}
        for record in found
        if record["kind"] != _OF_A_START
    ]


def _unlike(expected: Any, found: Any, path: str = "") -> Iterator[str]:
    """The values that differ between two trees of JSON, by their dotted path."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for name in [*expected, *(name for name in found if name not in expected)]:
            inner = f"{path}.{name}" if path else name
            yield from _unlike(expected.get(name), found.get(name), inner)
    # As text, in which a NaN equals itself.
    elif json.dumps(expected) != json.dumps(found):
        yield f"{path} is {json.dumps(found)} and not {json.dumps(expected)}"


def _first(name: str, expected: Any, found: Any) -> str:
    if expected is None or found is None or len(expected) != len(found):
        return f"took another number of {name}s"
    place = next(place for place, (a, b) in enumerate(zip(expected, found)) if a != b)
    return f"{name} {place} of its batch was {found[place]} and not {expected[place]}"
