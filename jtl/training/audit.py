"""The audit: what is frozen has, after a phase and after the run, the bits that it had before."""

from collections.abc import Mapping, Sequence
from typing import Any

from jtl.engine.freeze import FROZEN
from jtl.errors import JtlError
from jtl.training.phases import Phase
from jtl.tree import count, differences, digest, flatten


def audit_frozen(before: Any, after: Any, phases: Sequence[Phase]) -> dict[str, Any]:
    """Compares everything that stayed frozen through all phases, bit by bit.

    Args:
        before: the variables that were loaded.
        after: those at the end of the run.
        phases: of the run.

    Returns:
        The counts of frozen `parameters` and `statistics` (elements), and the digests of both
        together as `before` and `after`, which are equal.

    Raises:
        JtlError: a frozen leaf changed, which is a fault of jtl.
    """
    kept, now = frozen_leaves(before, phases), frozen_leaves(after, phases)
    if changed := differences(kept, now):
        raise JtlError("frozen leaves changed in training: " + "; ".join(changed[:10]))
    params = {path: leaf for path, leaf in kept.items() if path.startswith("params/")}
    return {
        "parameters": count(params),
        "statistics": count(kept) - count(params),
        "before": digest(kept),
        "after": digest(now),
    }


def frozen_leaves(variables: Mapping[str, Any], phases: Sequence[Phase]) -> dict[str, Any]:
    """By path, the parameters and statistics that none of these phases may change."""
    labels = [flatten(phase.labels) for phase in phases]
    modes = [phase.step.modes(phase.labels) for phase in phases]
    params = {
        f"params/{path}": leaf
        for path, leaf in flatten(variables["params"]).items()
        if all(label[path] == FROZEN for label in labels)
    }
    stats = {
        f"batch_stats/{path}": leaf
        for path, leaf in flatten(variables["batch_stats"]).items()
        if all(mode.keeps_statistics(path.rpartition("/")[0]) for mode in modes)
    }
    return {**params, **stats}


def frozen_digests(variables: Mapping[str, Any], phase: Phase) -> dict[str, str]:
    """The digest of each leaf that a phase may not change, by path."""
    leaves = frozen_leaves(variables, (phase,))
    return {path: digest(leaf) for path, leaf in leaves.items()}


def check_frozen(before: Mapping[str, str], variables: Mapping[str, Any], phase: Phase) -> None:
    """Compares what a phase may not change with what it was when the phase was entered.

    Args:
        before: from `frozen_digests`, then.
        variables: now.
        phase: that has ended.

    Raises:
        JtlError: a frozen leaf changed, which is a fault of jtl.
    """
    now = frozen_digests(variables, phase)
    changed = [path for path, value in before.items() if now[path] != value]
    if changed:
        raise JtlError(
            f"frozen leaves changed in the phase that ends at step {phase.stop}: "
            + ", ".join(changed[:10])
        )
