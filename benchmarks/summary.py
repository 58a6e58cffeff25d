"""README's table of what was measured: a question a line, the answers made from the JSON files."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
Rows = Sequence[Row]

BEGIN = "<!-- made by python -m benchmarks --draw -->"
END = "<!-- end of what it made -->"
CPU = "cpu"


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All results, in the order of the questions; those that no question asks for are left out."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
    return [own for name in QUESTIONS for own in found if own["name"] == name and own["rows"]]


def device_of(result: Row) -> str:
    """What a result was measured on, as people call it."""
    if "chip" in result:
        return f"{result['chip']['name']}, calculated"
    kind: str = result["environment"]["device"]
    return "CPU" if kind == CPU else kind


def table(folder: Path) -> str:
    """The table in Markdown, from all results of a folder."""
    lines = ["| question | answer | command |", "|---|---|---|"]
    for result in read_results(folder):
        question, answer, command = QUESTIONS[result["name"]]
        device = "" if device_of(result) == "CPU" else f" ({device_of(result)})"
        text = answer(result["rows"], on_cpu=not device)
        lines.append(f"| {question}{device} | {text} | `python -m benchmarks.{command}` |")
    return "\n".join(lines)


def insert(text: str, made: str) -> str:
    """A text with what stands between the two marks replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def best(rows: Rows, **wanted: Any) -> Row | None:
    """The fastest of those training steps that have these fields."""
    able = [row for row in rows if "failed" not in row and wanted.items() <= row.items()]
    return max(able, key=lambda row: float(row["images_per_second"]), default=None)


def duels(rows: Rows) -> list[tuple[str, str, Row, Row | None]]:
    """Of each network and part, jtl's fastest step and the fastest peer's of the same precision."""
    found = []
    for network, trained in dict.fromkeys((row["network"], row["trained"]) for row in rows):
        cell = {"network": network, "trained": trained}
        own = best(rows, name="jtl", **cell)
        if own is not None:
            others = [row for row in rows if not row["name"].startswith("jtl")]
            peer = best(others, precision=own["precision"], **cell)
            found.append((network, trained, own, peer))
    return found


def _named(rows: Rows, name: str) -> Row:
    (row,) = [row for row in rows if row["name"] == name]
    return row


def _median(row: Row, key: str = "seconds") -> float:
    return float(row[key]["median"])


def _span(values: Sequence[float], digits: int = 2) -> str:
    """The least and the greatest, or one figure where they are the same."""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} to {high}"


def _training(rows: Rows, *, on_cpu: bool) -> str:
    said = []
    for network, trained, own, peer in duels(rows):
        rate = own["images_per_second"]
        text = f"{network}, {trained}:"
        if not on_cpu:
            text += f" {rate:,.0f} images/s in {own['precision']} at {own['batch']} a step"
        if peer is not None:
            text += (
                f"{'' if on_cpu else ','} {rate / peer['images_per_second']:.2f} × {peer['name']}"
            )
        cell = {key: own[key] for key in ("network", "trained", "precision", "batch")}
        failed = [row["name"] for row in rows if "failed" in row and cell.items() <= row.items()]
        if peers := [name for name in failed if not name.startswith("jtl")]:
            text += f" ({' and '.join(peers)} failed)"
        said.append(text)
    return "; ".join(said)


def _freezing(rows: Rows, *, on_cpu: bool) -> str:
    del on_cpu
    return "; ".join(
        f"{row['name']}: {row['forwards']:.2f} forwards of arithmetic and "
        f"{row['seconds_of_full']:.2f} of full training's time"
        for row in rows
        if row["name"] != "full"
    )


def _cache(rows: Rows, *, on_cpu: bool) -> str:
    del on_cpu
    said = []
    for part in ("head", "last stage"):
        gains = [row["times_as_fast"] for row in rows if row["name"].startswith(f"{part}: from")]
        digits = 0 if min(gains) > 100 else 1
        said.append(f"{part} {_span(gains, digits)} × as fast")
    return "an epoch after the first: " + "; ".join(said)


def _images(rows: Rows, *, on_cpu: bool) -> str:
    del on_cpu

    def times(name: str) -> str:
        return f"{_named(rows, name)['times_pillow']:.1f} ×"

    first = max(_median(row) for row in rows if row["name"].startswith("first batch"))
    return (
        "500×375 JPEG files to crops of 224, by one core's time: "
        f"{times('jtl originals, loader')} a loop over Pillow; {times('jtl resized, loader')} from "
        f"`data.cache: resized`, {times('jtl raw, loader')} from `raw` (tf.data "
        f"{times('tf.data with fused crop')}, torch's DataLoader with Pillow "
        f"{times('torch DataLoader with Pillow')}); the first batch within {first:.2f} s"
    )


def _placement(rows: Rows, *, on_cpu: bool) -> str:
    one = [row["ratio"] for row in rows if row["devices"] == 1 and row["placement"] != "single"]
    most = max(row["devices"] for row in rows)
    text = f"`pmap` and `mesh` on one device {_span(one)} of `jit` alone"
    if most > 1:
        kind = "simulated devices, which share the cores," if on_cpu else "devices"
        text += f"; over {most} {kind} {_span([r['ratio'] for r in rows if r['devices'] == most])}"
    return f"{text}; losses differ by at most {max(row['difference'] for row in rows):.1g}"


def _keys(rows: Rows, *, on_cpu: bool) -> str:
    del on_cpu
    ratios = [row["ratio"] for row in rows if row["name"] == "keyed"]
    return f"a step with them takes {_span(ratios)} × that with Flax's plain dropout"


def _saving(rows: Rows, *, on_cpu: bool) -> str:
    del on_cpu
    full, head, overhead = (_named(rows, name) for name in ("full", "head only", "overhead"))
    return (
        f"the loop is held up for {full['stall_of_copy']:.1f} of one copy of the state in memory "
        f"({full['bytes'] / 1e6:.0f} MB, AdamW; Orbax by itself {full['bare_stall_of_copy']:.1f}); "
        f"a save every 500 steps {100 * overhead['overhead_every_500_steps']:.1f} %; digests "
        f"{100 * full['digest_share']:.1f} % of a save; a head-only step is "
        f"1/{head['full_step_bytes_of_step_bytes']:.0f} of a full one"
    )


def _trials(rows: Rows, *, on_cpu: bool) -> str:
    del on_cpu
    many = _named(rows, "100 trials of 5 folds, with compilation")["times_the_ordinary"]
    folds = _named(rows, "5 folds of one trial, with compilation")["times_the_ordinary"]
    return (
        f"100 trials × 5 folds of a linear head (2,000 images, 2,048 features): {many:.1f} × one "
        f"trial of one fold by itself; all 5 folds of one trial: {folds:.1f} ×"
    )


def _prediction(rows: Rows, *, on_cpu: bool) -> str:
    del on_cpu
    memory = [row for row in rows if row["images"] == "in memory"]
    return (
        f"`run.predict` keeps {_span([row['of_evaluation'] for row in rows])} of an evaluation's "
        "throughput, and from images in memory "
        + " and ".join(f"{row['of_step']:.2f} (`{row['network']}`)" for row in memory)
        + " of the bare compiled step's"
    )


def _ranking(rows: Rows, *, on_cpu: bool) -> str:
    del on_cpu
    (row,) = rows
    return (
        "1,000 JPEG files of 256×256 and three networks of ResNet-18's size, from start to end: "
        f"{row['seconds']:.0f} s within {row['peak_memory_mib'] / 1024:.1f} GiB"
    )


def _cleaning(rows: Rows, *, on_cpu: bool) -> str:
    del on_cpu
    said = []
    for row in rows:
        if "near" not in row:
            said.append(
                f"{row['images']:,} photographs within {row['peak_gib']:.2f} GiB in "
                f"{row['seconds']:.0f} s"
            )
            continue
        shares = {"corrupt files": "corrupt", "exact copies": "exact", "near copies": "near"}
        found = ", ".join(f"{100 * row[key]:.0f} % of {kind}" for kind, key in shares.items())
        wrong = f"{100 * row['flipped_in_first_tenth']:.0f} % of wrong labels in the first tenth"
        said.append(f"{row['data']}: {found}, {100 * row['leaked']:.0f} % of leaks, {wrong}")
    return "; ".join(said)


def _starting(rows: Rows, *, on_cpu: bool) -> str:
    del on_cpu
    again = [row for row in rows if row["name"].endswith(", again")]
    said = [f"`jtl --help` {_median(_named(rows, 'jtl --help')):.2f} s"]
    for row in again:
        name = row["name"].removeprefix("first step, ").removesuffix(", again")
        said.append(
            f"a second start, {name}: {row['ratio']:.2f} of the cold one's time to the first step, "
            f"{max(row['compiled'])} programs compiled"
        )
    return "; ".join(said)


def _loop(rows: Rows, *, on_cpu: bool) -> str:
    del on_cpu
    said = []
    for leaves in dict.fromkeys(row["leaves"] for row in rows):
        more = {row["batches"]: 1e6 * row["overhead"] for row in rows if row["leaves"] == leaves}
        said.append(
            f"beyond a bare call of an empty step with {leaves} leaves: {more['rows']:.0f} µs on "
            f"cached rows, {more['images']:.0f} on images from memory"
        )
    return "; ".join(said)


def _absent(rows: Rows, *, on_cpu: bool) -> str:
    del on_cpu
    said = []
    for row in rows:
        if row["trained"] == "full" and not row["how"]:
            said.append(
                f"{row['network']}, full: {row['flops_per_image'] / 1e9:.0f} GFLOP and "
                f"{row['bytes_per_image'] / 1e6:.0f} MB an image, {row['peak_bytes'] / 2**30:.1f} "
                f"GiB at {row['batch']} a step"
            )
        elif row["how"] == "stages again":
            said[-1] += (
                f" (all stages computed again: {row['temporary_bytes_of_plain']:.2f} of the "
                f"activations for {row['seconds_of_plain']:.2f} × the time)"
            )
    return "; ".join(said)


def _reaching(rows: Rows, *, on_cpu: bool) -> str:
    said = []
    for row in rows:
        name = f"{row['side']}, {row['start']}"
        if row["side"] == "jtl, from scratch" and row["start"] == "cold":
            seconds = "" if on_cpu else f" ({_median(row):.0f} s)"
            said.insert(0, f"{name}: 1{seconds}")
        else:
            said.append(f"{name} {row['ratio']:.2f}" if row["reached"] else f"{name} not reached")
    return "; ".join(said)


def _resuming(rows: Rows, *, on_cpu: bool) -> str:
    del on_cpu
    said = []
    for row in rows:
        goodput = ", ".join(
            f"{100 * share:.1f} % at a kill every {minutes} minutes"
            for minutes, share in row["goodput_by_minutes"].items()
        )
        start = _median(row, "again")
        said.append(f"{row['side']}: the first step {start:.1f} s after the start; {goodput}")
    return "; ".join(said)


# In README's order: what is asked, how the answer is made from a result's rows, and the script with
# the options that it was run with.
QUESTIONS: Mapping[str, tuple[str, Callable[..., str], str]] = {
    "train_step": ("how fast is a training step?", _training, "train_step"),
    "ahead": ("what does a training step need?", _absent, "ahead"),
    "frozen_cost": ("what does freezing save?", _freezing, "frozen_cost"),
    "cache_gain": ("what does the boundary cache gain?", _cache, "cache_gain"),
    "startup": ("how long does it take to begin?", _starting, "startup"),
    "loop_overhead": ("what does the loop take a step?", _loop, "loop_overhead"),
    "end_to_end": ("how soon is an accuracy reached?", _reaching, "end_to_end"),
    "resume": ("what does a kill cost?", _resuming, "resume"),
    "input_pipeline": ("how fast are images read?", _images, "input_pipeline"),
    "placement": ("what does placement cost?", _placement, "placement"),
    "key_price": ("what do masks keyed by example cost?", _keys, "key_price"),
    "checkpoint": ("what does saving cost?", _saving, "checkpoint"),
    "vectorised": ("what do trials in one program cost?", _trials, "vectorised"),
    "predict": ("what does prediction cost?", _prediction, "predict"),
    "rank": ("how long does a ranking take?", _ranking, "rank"),
    "check": ("what does the cleaner find of what was planted?", _cleaning, "check --speed"),
}
