"""`jtl check`: finds what spoils a dataset, before hours are spent on it."""

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

_WORST = 3  # cases that the table shows of a kind
_WIDEST = 110  # letters of a case


def check(
    data: str,
    *,
    output: Path = Path("check.json"),
    page: Path | None = None,
    model: str = "resnet_mini",
    weights: str | None = "glyphs",
    data_dir: Path | None = None,
    follow_links: Annotated[bool, Parameter(negative="")] = False,
    max_pixels: int | None = None,
    threads: int | None = None,
) -> None:
    """Find what spoils a dataset: damaged files, copies, leaks, wrong labels, odd images.

    Prints a table, writes `check.json` and `check.html`, and changes nothing of the dataset. The
    exit status is 1 if something serious was found and 0 if not. `jtl train CONFIG --set
    data.exclude=check.json` leaves out what the file marks. Example: `jtl check photos/`.

    Args:
        data: a folder of class folders, a manifest (`.csv`, `.parquet`), `.npz`, `tfds:NAME`,
            `digits` or `glyphs`.
        output: what training takes as `data.exclude`.
        page: with thumbnails, worst first; by default beside the output, as `.html`.
        model: the network whose features labels are judged by, beside colours and edges.
        weights: its weights, such as `resnet50.tv_in1k_v2` or a file.
        data_dir: where TFDS keeps its datasets.
        follow_links: follow symbolic links that lead outside the folder.
        max_pixels: of an image; more are refused before they are decoded.
        threads: that decode; by default as many as there are cores.
    """
    from jtl.cli.console import make_console
    from jtl.data.decode import MAX_PIXELS
    from jtl.data.options import DataOptions, load_source
    from jtl.errors import ConfigError
    from jtl.report.check_page import check_page
    from jtl.study.check.check import check as run
    from jtl.study.check.check import check_installed
    from jtl.training.files import write_json, write_text
    from jtl.weights.load import load_model

    for name, number in (("--max-pixels", max_pixels), ("--threads", threads)):
        if number is not None and number < 1:
            raise ConfigError(f"{name} is {number}, but must be at least 1.")
    page = output.with_suffix(".html") if page is None else page
    _check_places(data, output, page)
    check_installed()
    options = DataOptions(
        source=data,
        data_dir=None if data_dir is None else str(data_dir),
        follow_links=follow_links,
        max_pixels=max_pixels or MAX_PIXELS,
        threads=threads,
    )
    source = load_source(options, refuse=False)
    pretrained = load_model(model, weights, rng=0)
    console = make_console()
    with _Progress(console) as tell:
        result = run(
            source,
            data=data,
            max_pixels=options.max_pixels,
            threads=options.decoders,
            pretrained=pretrained,
            tell=tell,
        )
    write_json(output, result.to_json())
    write_text(page, check_page(result, source, options.max_pixels))
    _show(console, result)
    console.print(f"wrote    {output}, and {page} with thumbnails, in {result.seconds:.0f} s")
    if result.dropped:
        console.print(
            f"next     jtl train CONFIG --set data.exclude={output} leaves out {result.dropped} of "
            f"{len(source)} images"
        )
    if result.serious:
        sys.exit(1)


def _check_places(data: str, output: Path, page: Path) -> None:
    """Nothing is written into the dataset, nor in place of it."""
    from jtl.errors import ConfigError

    root = Path(data).expanduser().resolve()
    for path in (output, page):
        place = path.expanduser().resolve()
        if place == root or (root.is_dir() and place.is_relative_to(root)):
            raise ConfigError(
                f"{path} would lie within the dataset; name another place with --output."
            )
        if place.is_dir() or not place.parent.is_dir():
            what = "is a folder" if place.is_dir() else "lies in no folder that is there"
            raise ConfigError(f"{path} {what}; name a file with --output.")
    if output.expanduser().resolve() == page.expanduser().resolve():
        raise ConfigError(f"{output} cannot be the page as well; name another with --page.")


class _Progress:
    """A bar for each stage on a terminal; in a file or a pipe a line for each stage."""

    def __init__(self, console: Any) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._console = console
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(
            *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=total)
            if not self._console.is_terminal:
                self._console.print(stage)
        self._bar.update(self._tasks[stage], completed=done, total=total)


def _show(console: Any, result: Any) -> None:
    from rich.table import Table

    from jtl.study.check.findings import KINDS

    console.print(f"{result.data}: {len(result.names)} images, {len(result.classes)} classes")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "found", "how many", "worst"):
        table.add_column(name, justify="right" if name == "how many" else "left")
    for kind, number in result.counts.items():
        own = [finding.message for finding in result.findings if finding.kind == kind]
        cases = [text if len(text) <= _WIDEST else f"{text[:_WIDEST]}…" for text in own[:_WORST]]
        table.add_row(KINDS[kind].severity, KINDS[kind].title, str(number), "\n".join(cases))
    console.print(table if result.findings else "nothing found")
    for note in result.notes:
        console.print(f"note     {note}")
