"""README's picture of what was measured: one panel a question, drawn from the JSON files."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.summary import Rows, device_of, duels, read_results

OWN, OTHER = "#2b6cb0", "#b8c0cc"
WIDTH, BAR, GAP = 12.0, 0.24, 0.6  # inches: of the picture, of a bar, above a panel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of a panel.

    Attributes:
        label: at its left.
        value: its length.
        own: whether it is jtl's, or a peer's or the yardstick.
    """

    label: str
    value: float
    own: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """What a result looks like.

    Attributes:
        title: what the bars are.
        bars: from top to bottom.
        logarithmic: whether lengths are compared by their ratios.
    """

    title: str
    bars: tuple[Bar, ...]
    logarithmic: bool = False


def draw(folder: Path, path: Path) -> Path:
    """Draws the results of a folder.

    Args:
        folder: of the JSON files.
        path: of the picture.
    """
    panels = [
        dataclasses.replace(panel, title=f"{panel.title} · {_short(device_of(result))}")
        for result in read_results(folder)
        for panel in PANELS.get(result["name"], _none)(result["rows"])
    ]
    columns: tuple[list[Panel], list[Panel]] = ([], [])
    for panel in panels:
        min(columns, key=_height).append(panel)
    tall = max(_height(column) for column in columns)
    figure = plt.figure(figsize=(WIDTH, tall), dpi=110)
    for place, column in enumerate(columns):
        top = tall
        for panel in column:
            own = BAR * len(panel.bars)
            top -= GAP + own
            box = (0.2 + 0.5 * place, top / tall, 0.27, own / tall)
            _draw_panel(figure.add_axes(box), panel)
    figure.savefig(path)
    plt.close(figure)
    return path


def _short(device: str) -> str:
    """A device's name without its maker and its memory: titles are narrow."""
    return device.removeprefix("NVIDIA ").split()[0]


def _height(column: Sequence[Panel]) -> float:
    """Inches."""
    return sum(GAP + BAR * len(panel.bars) for panel in column) + GAP / 2


def _draw_panel(axes: Axes, panel: Panel) -> None:
    values = [bar.value for bar in panel.bars]
    colours = [OWN if bar.own else OTHER for bar in panel.bars]
    places = range(len(values))
    axes.barh(places, values, color=colours, height=0.72, log=panel.logarithmic)
    axes.set_yticks(places, [bar.label for bar in panel.bars], fontsize=8)
    axes.set_ylim(len(values) - 0.5, -0.5)  # the first on top
    low = min(min(values) / 2, 0.5) if panel.logarithmic else 0
    axes.set_xlim(low, max(values) * (4 if panel.logarithmic else 1.18))
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            f" {_figure(value)}", (value, place), va="center", fontsize=8, color="#333333"
        )
    axes.set_title(panel.title, fontsize=9, loc="left", fontweight="bold")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_visible(False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _figure(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _none(rows: Rows) -> Sequence[Panel]:
    del rows
    return ()


def _training(rows: Rows) -> Sequence[Panel]:
    bars = [Bar(label="the fastest peer", value=1.0, own=False)]
    for network, trained, own, peer in duels(rows):
        if peer is not None:
            ratio = own["images_per_second"] / peer["images_per_second"]
            bars.append(Bar(label=f"{network}, {trained}", value=ratio))
    return [Panel(title="training, images/s of the fastest peer's", bars=tuple(bars))]


def _bars(rows: Rows, value: Callable[[Any], float], own: Callable[[Any], bool]) -> tuple[Bar, ...]:
    return tuple(Bar(label=row["name"], value=value(row), own=own(row)) for row in rows)


def _freezing(rows: Rows) -> Sequence[Panel]:
    bars = _bars(rows, lambda row: row["seconds_of_full"], lambda row: row["name"] != "full")
    return [Panel(title="a step's time, of full training's", bars=bars)]


def _cache(rows: Rows) -> Sequence[Panel]:
    bars = _bars(rows, lambda row: row["times_as_fast"], lambda row: "without" not in row["name"])
    return [
        Panel(
            title="an epoch from the cache, times as fast (log)",
            bars=bars,
            logarithmic=True,
        )
    ]


def _images(rows: Rows) -> Sequence[Panel]:
    compared = [row for row in rows if "times_pillow" in row]
    bars = _bars(compared, lambda row: row["times_pillow"], lambda row: "jtl" in row["name"])
    return [Panel(title="images read by one core, times Pillow", bars=bars)]


def _saving(rows: Rows) -> Sequence[Panel]:
    (full,) = [row for row in rows if row["name"] == "full"]
    bars = (
        Bar(label="jtl", value=full["stall_of_copy"]),
        Bar(label="Orbax by itself", value=full["bare_stall_of_copy"], own=False),
    )
    return [Panel(title="a save's stall, in copies of the state", bars=bars)]


def _trials(rows: Rows) -> Sequence[Panel]:
    others = rows[1:]
    bars = (
        Bar(label="one trial of one fold by itself", value=1.0, own=False),
        *(Bar(label=own["name"], value=own["times_the_ordinary"]) for own in others),
    )
    return [Panel(title="trials in one program, times one by itself", bars=bars)]


def _starting(rows: Rows) -> Sequence[Panel]:
    starts = [row for row in rows if row["name"].startswith("first step")]
    bars = _bars(starts, lambda row: row["ratio"], lambda row: row["name"].endswith("again"))
    return [Panel(title="to the first step, of a cold start", bars=bars)]


def _reaching(rows: Rows) -> Sequence[Panel]:
    reached = [row for row in rows if row["reached"]]
    bars = tuple(
        Bar(
            label=f"{row['side']}, {row['start']}",
            value=row["ratio"],
            own=row["side"].startswith("jtl"),
        )
        for row in reached
    )
    return [Panel(title="time to an accuracy, of jtl's from scratch", bars=bars)]


PANELS: Mapping[str, Callable[[Rows], Sequence[Panel]]] = {
    "train_step": _training,
    "frozen_cost": _freezing,
    "cache_gain": _cache,
    "input_pipeline": _images,
    "checkpoint": _saving,
    "vectorised": _trials,
    "startup": _starting,
    "end_to_end": _reaching,
}
