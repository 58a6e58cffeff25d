"""A page that follows a run while it trains: a file that is written anew, and no server."""

import time
from collections.abc import Callable
from pathlib import Path

from jtl.experiment.workdir import stored_config
from jtl.report.history import read_history
from jtl.report.page import Section, Tile, pictures, render_page
from jtl.report.write import Plots, learning_curves
from jtl.training.files import write_text


def write_live(workdir: Path, refresh: int) -> Path:
    """Writes what a run has recorded until now; a browser reads it again by itself.

    Args:
        workdir: the folder of a run that has begun.
        refresh: seconds between two readings.

    Raises:
        CheckpointError: the folder is no run, or cannot be written to.
    """
    config, history = stored_config(workdir), read_history(workdir)
    tiles = [
        Tile(name="step", value=f"{history.last:,}"),
        Tile(name="training left", value=f"{history.seconds_left:,.0f} s"),
    ]
    for kind, own in (("train", history.train), ("val", history.val)):
        for name in ("loss", "accuracy"):
            if name in own:
                tiles.append(Tile(name=f"{kind} {name}", value=f"{own[name].values[-1]:.4f}"))
    body = learning_curves(Plots(None), history)
    page = render_page(
        f"{config.name}, in training",
        f"{config.model.name} on {config.data.source}, in {workdir}",
        [Section(title="Learning", body=body or pictures())],
        tiles=tiles,
        refresh=refresh,
    )
    path = workdir / "report.html"
    write_text(path, page)
    return path


def follow(workdir: Path, refresh: int, wait: Callable[[float], None] = time.sleep) -> None:
    """Writes the page again and again until the run has ended.

    Args:
        workdir: the folder of a run that has begun.
        refresh: seconds between two writings.
        wait: what passes the time.

    Raises:
        CheckpointError: as `write_live`.
    """
    while not (workdir / "summary.json").exists():
        write_live(workdir, refresh)
        wait(refresh)
