"""Inspection: what a weight file is, and the ledger it would have as a given model."""

import dataclasses
from typing import Any

from jtl.errors import WeightsError
from jtl.weights.fit import describe, fit_layout, variant_suffix
from jtl.weights.head import HeadPlan
from jtl.weights.layouts.identify import Match, identify
from jtl.weights.ledger import Ledger
from jtl.weights.load import account, input_record, make_ledger
from jtl.weights.metadata import file_classes
from jtl.weights.readers import WeightFile, check_finite
from jtl.weights.source import Weights, open_weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspection:
    """What is known of a weight file.

    Attributes:
        path: the file.
        format: its format, such as `safetensors`.
        tensors: how many it holds.
        parameters: how many numbers they hold.
        verdict: in a sentence, which architecture and layout it is, or what comes closest.
        ledger: what would become of every tensor; None where no architecture fits exactly.
        matches: the architectures that come closest where none fits exactly, best first.
    """

    path: str
    format: str
    tensors: int
    parameters: int
    verdict: str
    ledger: Ledger | None = None
    matches: tuple[Match, ...] = ()


def inspect_weights(
    weights: Weights,
    model: str | None = None,
    **fields: Any,
) -> Inspection:
    """Says what a weight file is, without building a model from it.

    Args:
        weights: as in `load_model`.
        model: the registry's name of the model to account for; None finds out which it is.
        **fields: fields of the model, such as `aux_head`.

    Raises:
        ConfigError: there is no such model or field.
        WeightsError: the file cannot be read, holds NaN or infinity, or is not the given model.
    """
    file, released = open_weights(weights)
    check_finite(file)
    matches = () if model else identify_file(file)
    if model is None:
        if not (matches and matches[0].exact):
            return _inspection(file, _closest(file, matches), matches=matches)
        model, fields = matches[0].architecture, dict(matches[0].fields)
    found = fit_layout(model, file, fields)
    held = found.num_classes
    names = file_classes(file, held)
    plan = HeadPlan(num_classes=held or 1000, status="loaded", classes=names)
    if held is None:
        plan = dataclasses.replace(plan, status="initialised", reason="the file has no head")
    rows, _ = account(file, found, plan, None)
    record, origin = input_record(file, released, found)
    notes = [*plan.notes, f"preprocessing from {origin}: {record.describe()}"]
    if names:
        notes.append(f"classes: {', '.join(names[:8])}" + (", …" if len(names) > 8 else ""))
    classes = f"{held} classes" if held else "no head"
    verdict = f"{model}{variant_suffix(found)} ({found.layout.name} layout, {classes})"
    return _inspection(file, verdict, ledger=make_ledger(file, found, rows, notes))


def identify_file(file: WeightFile) -> tuple[Match, ...]:
    """The architectures that a file can be, best first; exact ones alone if there are any."""
    return tuple(identify({name: tuple(array.shape) for name, array in file.tensors.items()}))


def exact_architecture(file: WeightFile) -> Match:
    """The one architecture that a file is.

    Raises:
        WeightsError: none fits exactly; the message names what comes closest.
    """
    matches = identify_file(file)
    if matches and matches[0].exact:
        return matches[0]
    raise WeightsError(f"{file.path}: {_closest(file, matches)}")


def _closest(file: WeightFile, matches: tuple[Match, ...]) -> str:
    if not matches:
        shown = ", ".join(list(file.tensors)[:4])
        return f"no architecture that jtl knows has any of its tensors ({shown}, …)."
    return f"no architecture fits exactly; it comes closest to {describe(matches[0])}."


def _inspection(
    file: WeightFile,
    verdict: str,
    *,
    ledger: Ledger | None = None,
    matches: tuple[Match, ...] = (),
) -> Inspection:
    return Inspection(
        path=file.path,
        format=file.format,
        tensors=len(file.tensors),
        parameters=sum(array.size for array in file.tensors.values()),
        verdict=verdict,
        ledger=ledger,
        matches=matches,
    )
