"""How the terminal shows a search for the learning rate."""

from rich.table import Table

from jtl.cli.console import make_console
from jtl.training.rate_finder import RateSearch

_ROWS, _WIDTH = 20, 40


def show_search(search: RateSearch) -> None:
    """Prints the loss by rate, and the option that sets the suggested one."""
    console = make_console()
    console.print(_table(search))
    if search.suggestion is None:
        console.print("no rate lowered the loss; look at the data, the freeze spec and the weights")
    else:
        rate = float(f"{search.suggestion:.1e}")
        console.print(f"suggested  --set train.phases.0.schedule.rate={rate:g}")


def _table(search: RateSearch) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("rate", "loss"):
        table.add_column(name, justify="right")
    table.add_column("")
    top = max(search.losses, default=1.0)
    every = max(1, len(search.losses) // _ROWS)
    for rate, loss in list(zip(search.rates, search.losses))[::every]:
        table.add_row(f"{rate:.1e}", f"{loss:.4f}", "█" * round(_WIDTH * loss / top))
    return table
