"""`jtl params`: what each phase of a config trains, at which rate, and what its step costs."""

from typing import Annotated

from cyclopts import Parameter


def params(
    config: str,
    *,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    cost: bool = True,
) -> None:
    """Show the stages of each phase: parameters, what is trained, rate, BatchNorm, cost.

    Example: `jtl params digits`.

    Args:
        config: the name of a bundled recipe, or a YAML file.
        set_: one option by its dotted key, such as `model.name=resnet50`; may be repeated.
        cost: whether each step is compiled to count its operations and memory, which takes up
            to a minute for a large network.
    """
    from pathlib import Path

    from jtl.cli.console import make_console
    from jtl.cli.memory import prepare_computing
    from jtl.cli.stages import phase_heading, phase_table
    from jtl.experiment.cost import phase_cost
    from jtl.experiment.options import read_config
    from jtl.experiment.setup import set_up

    console = make_console()
    prepare_computing()
    options = read_config(config, set_)
    setup = set_up(options, Path("runs") / options.name)
    console.print(f"model    {setup.pretrained.ledger.summary()}")
    for index, phase in enumerate(setup.phases):
        spent = None
        if cost:
            with console.status(f"compiling the step of phase {index + 1}"):
                spent = phase_cost(setup, phase)
        console.print()
        console.print(phase_heading(setup, index, spent))
        console.print(phase_table(setup, phase))
