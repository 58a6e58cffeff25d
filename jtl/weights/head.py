"""The head: whether a file's classes are kept, matched by name or drawn anew."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from jtl.errors import ConfigError, WeightsError
from jtl.weights.ledger import ShapeDtype, Status

HeadMode = Literal["auto", "keep", "init", "match"]
CLASS_STAGES = ("head", "aux")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadPlan:
    """What becomes of the layers whose width is the number of classes.

    Attributes:
        num_classes: the width of the logits to come.
        status: `loaded`, `matched` or `initialised`.
        reason: why it is not `loaded`.
        classes: the names of the classes to come; None where nobody has said.
        kept: pairs of a class's place in the new head and its place in the file's.
        notes: what the ledger says beside the rows.
    """

    num_classes: int
    status: Status
    reason: str = ""
    classes: tuple[str, ...] | None = None
    kept: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def draws(self) -> bool:
        """Whether some class starts at random."""
        return self.status == "initialised" or (
            self.status == "matched" and len(self.kept) < self.num_classes
        )


def plan_head(
    mode: HeadMode,
    *,
    num_classes: int | None,
    classes: Sequence[str] | None,
    held: int | None,
    held_classes: Sequence[str] | None,
    where: str,
) -> HeadPlan:
    """Decides about the head.

    Args:
        mode: `keep` the file's; `init` draws anew; `match` keeps the classes that bear the same
            name in both and draws the others; `auto` keeps where the numbers agree.
        num_classes: how many are wanted; None for as many as `classes`, else as the file has.
        classes: the names of the wanted classes, in order.
        held: how many the file has; None where it has no head.
        held_classes: their names, where the file says them.
        where: the file, for messages.

    Raises:
        ConfigError: the wishes contradict each other.
        WeightsError: the file cannot fulfil them.
    """
    wanted = check_classes(num_classes, classes)
    if mode not in get_args(HeadMode):
        raise ConfigError(
            f"head={mode!r} is not known; give one of {', '.join(get_args(HeadMode))}."
        )
    names = None if classes is None else tuple(classes)
    if held is None:
        return _plan_without_head(mode, wanted, names, where)
    if mode == "match":
        return _plan_match(names, held_classes, where)
    if mode == "keep" and wanted not in (None, held):
        raise ConfigError(
            f"head='keep' cannot give {wanted} classes: {where} has {held}; leave num_classes "
            "out, or set head='init' or 'match'."
        )
    if mode == "init" or wanted not in (None, held):
        count = held if wanted is None else wanted
        reason = "asked for" if mode == "init" else f"{held} classes in the file, {count} wanted"
        return HeadPlan(num_classes=count, status="initialised", reason=reason, classes=names)
    return _plan_keep(held, names, held_classes)


def check_classes(num_classes: int | None, classes: Sequence[str] | None) -> int | None:
    """How many classes are wanted; None where nothing says it.

    Raises:
        ConfigError: the number is below 1, is not that of the names, or a name comes twice.
    """
    if num_classes is not None and num_classes < 1:
        raise ConfigError(f"num_classes={num_classes}; give at least 1.")
    if classes is None:
        return num_classes
    twice = sorted({name for name in classes if list(classes).count(name) > 1})
    if twice:
        raise ConfigError(f"classes names {', '.join(map(repr, twice))} more than once.")
    if num_classes not in (None, len(classes)):
        raise ConfigError(
            f"num_classes={num_classes}, but classes names {len(classes)}; leave one of them out."
        )
    return len(classes)


def class_leaves(shapes: Mapping[str, ShapeDtype]) -> tuple[str, ...]:
    """The leaves whose last axis is the classes: kernel and bias of the last dense layers."""
    dense = {
        path.rpartition("/")[0]
        for path, leaf in shapes.items()
        if path.split("/")[1] in CLASS_STAGES and path.endswith("/kernel") and len(leaf.shape) == 2
    }
    return tuple(path for path in shapes if path.rpartition("/")[0] in dense)


def keep_rows(drawn: np.ndarray | None, held: np.ndarray, plan: HeadPlan, dtype: Any) -> np.ndarray:
    """A leaf of the head with the kept classes from the file and the others as drawn.

    Args:
        drawn: `[..., num_classes]`; None where every class is kept.
        held: the file's, `[..., classes in the file]`, in our layout.
        plan: which classes are kept.
        dtype: of the result.
    """
    shape = (*held.shape[:-1], plan.num_classes)
    result = np.empty(shape, dtype) if drawn is None else np.array(drawn, dtype)
    new, old = (list(places) for places in zip(*plan.kept))
    result[..., new] = held[..., old]
    return result


def _plan_without_head(
    mode: HeadMode, wanted: int | None, names: tuple[str, ...] | None, where: str
) -> HeadPlan:
    if mode in ("keep", "match"):
        raise WeightsError(f"{where} has no head, so head={mode!r} has nothing to keep.")
    if wanted is None:
        raise ConfigError(f"{where} has no head; say num_classes, so that one can be drawn.")
    return HeadPlan(
        num_classes=wanted, status="initialised", reason="the file has no head", classes=names
    )


def _plan_keep(
    held: int, names: tuple[str, ...] | None, held_classes: Sequence[str] | None
) -> HeadPlan:
    known = None if held_classes is None else tuple(held_classes)
    notes = []
    if known and names and known != names:
        notes.append(
            f"the head is kept, with the file's {held} classes ({_some(known)}), although others "
            f"were named ({_some(names)}); head='match' or 'init' would follow the names"
        )
    return HeadPlan(num_classes=held, status="loaded", classes=known or names, notes=tuple(notes))


def _plan_match(
    names: tuple[str, ...] | None, held_classes: Sequence[str] | None, where: str
) -> HeadPlan:
    if names is None:
        raise ConfigError("head='match' needs the names of the new classes: classes=[...].")
    if held_classes is None:
        raise WeightsError(
            f"{where} does not name its classes (metadata `jtl.classes`), so head='match' cannot "
            "find any; use head='init'."
        )
    place = {name: index for index, name in enumerate(held_classes)}
    kept = tuple((new, place[name]) for new, name in enumerate(names) if name in place)
    if not kept:
        raise WeightsError(
            f"no class has the same name in {where} ({_some(held_classes)}) and in classes "
            f"({_some(names)}), so head='match' keeps nothing; use head='init'."
        )
    drawn = [name for name in names if name not in place]
    reason = f"{len(kept)} of {len(names)} classes kept by name"
    if drawn:
        reason += f"; drawn at random: {_some(drawn)}"
    return HeadPlan(
        num_classes=len(names), status="matched", reason=reason, classes=names, kept=kept
    )


def _some(names: Sequence[str], shown: int = 4) -> str:
    rest = f", … {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest
