"""The audit of a finished run: what was frozen throughout has the bits that were loaded."""

from collections.abc import Sequence
from typing import Any

from jtl.engine.freeze import FROZEN
from jtl.errors import JtlError
from jtl.training.phases import Phase
from jtl.tree import count, differences, digest, flatten, unflatten


def audit_frozen(before: Any, after: Any, phases: Sequence[Phase]) -> dict[str, Any]:
    """Compares everything that stayed frozen through all phases, bit by bit.

    Args:
        before: the variables that were loaded.
        after: those at the end of the run.
        phases: of the run.

    Returns:
        The counts of frozen `parameters` and `statistics` (elements) and their `digest`.

    Raises:
        JtlError: a frozen leaf changed, which is a fault of jtl.
    """
    labels = [flatten(phase.labels) for phase in phases]
    params = {
        path: leaf
        for path, leaf in flatten(before["params"]).items()
        if all(label[path] == FROZEN for label in labels)
    }
    modes = [phase.step.modes(phase.labels) for phase in phases]
    stats = {
        path: leaf
        for path, leaf in flatten(before["batch_stats"]).items()
        if all(mode.keeps_statistics(path.rpartition("/")[0]) for mode in modes)
    }
    kept = {"params": params, "batch_stats": stats}
    now = {
        name: {path: flatten(after[name])[path] for path in leaves} for name, leaves in kept.items()
    }
    changed = differences(kept, now)
    if changed:
        raise JtlError("frozen leaves changed in training: " + "; ".join(changed[:10]))
    return {
        "parameters": count(params),
        "statistics": count(stats),
        "digest": digest(unflatten(params)),
    }
