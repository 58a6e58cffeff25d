"""How the terminal shows a phase: a heading with its cost, and a table of its stages."""

from typing import Any

from rich.table import Table

from jtl.engine.freeze import TRAINABLE, stage_table
from jtl.experiment.cost import PhaseCost
from jtl.experiment.setup import Setup
from jtl.training.phases import Phase
from jtl.tree import count, flatten


def phase_heading(setup: Setup, index: int, cost: PhaseCost | None) -> str:
    """Which steps a phase takes, what it trains by which rule, and what a step costs."""
    phase = setup.phases[index]
    option = setup.config.train.phases[phase.option]
    total = count(setup.pretrained.variables["params"])
    labels = flatten(phase.labels)
    trained = sum(
        int(leaf.size)
        for path, leaf in flatten(setup.pretrained.variables["params"]).items()
        if labels[path] == TRAINABLE
    )
    lines = [
        f"phase {index + 1}  steps {phase.start}-{phase.stop}, {option.optimizer.name}, "
        f"{option.schedule.kind} rate up to {option.schedule.rate:g}; {trained:,} of {total:,} "
        f"parameters trained ({trained / total:.1%})"
    ]
    if cost is not None:
        lines.append("         " + _cost(cost, setup.config.data.batch_size))
    return "\n".join(lines)


def _cost(cost: PhaseCost, batch_size: int) -> str:
    said = [f"optimizer state {_size(cost.optimizer)}"]
    if cost.flops is not None:
        each = cost.flops / batch_size
        said.insert(0, f"{_number(cost.flops)}FLOP a step, {_number(each)}FLOP an image")
    if cost.memory is not None:
        said.append(f"{_size(cost.memory)} on one device")
    return ", ".join(said)


def phase_table(setup: Setup, phase: Phase) -> Table:
    """One row a stage: parameters, trained share, rate and the modes of its BatchNorms."""
    params, stages = setup.pretrained.variables["params"], setup.pretrained.model.stages
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage")
    for name in ("parameters", "trained"):
        table.add_column(name, justify="right")
    table.add_column("peak rate")
    table.add_column("BatchNorm")
    peak = setup.config.train.phases[phase.option].schedule.rate
    for row in stage_table(params, phase.labels, stages):
        share = 1 - row.frozen / row.parameters
        table.add_row(
            row.stage,
            f"{row.parameters:,}",
            f"{share:.1%}",
            _rates(phase, row.stage, peak) if share else "",
            ", ".join(_modes(setup, phase, row.stage)),
        )
    return table


def _rates(phase: Phase, stage: str, peak: float) -> str:
    labels = flatten(phase.labels)
    factors = {
        factor
        for path, factor in flatten(phase.multipliers).items()
        if path.split("/")[0] == stage and labels[path] == TRAINABLE
    }
    ends = sorted({peak * min(factors), peak * max(factors)})
    return " to ".join(f"{rate:.3g}" for rate in ends)


def _modes(setup: Setup, phase: Phase, stage: str) -> list[str]:
    modes: Any = phase.step.modes(phase.labels)
    norms = {path.rpartition("/")[0] for path in flatten(setup.pretrained.variables["batch_stats"])}
    own = [norm for norm in norms if norm.split("/")[0] == stage]
    return sorted({modes.batch_norm_mode(norm) for norm in own})


def _number(value: float) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g} "


def _size(size: float) -> str:
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} B"
