"""`jtl rank`: which pretrained network serves a dataset best."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from jtl.study.rank import Ranked, Ranking

_ABSENT = "-"


def rank(
    data: str,
    *,
    models: str | None = None,
    weights: Path | None = None,
    budget: float | None = None,
    images: int = 2000,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    seed: int = 0,
    output: Path = Path("rank"),
) -> None:
    """Rank pretrained networks on a dataset, without training any of them.

    Example: `jtl rank photos/ --models resnet18,resnet50,vgg16 --budget 10`.

    Args:
        data: a folder of class folders, a manifest, or another source as `data.source` takes it.
        models: architectures or names of weights, parted by commas; by default all released
            weights that are here.
        weights: a folder of weight files.
        budget: minutes; candidates that would not end in time are left out.
        images: how many are looked at at most; never those of the test split.
        set_: one option of the data, such as `data.split.test=0.3`; may be repeated.
        seed: of the sample and its folds.
        output: the folder of rank.json, rank.png and the winner's config.
    """
    import dataclasses

    from jtl.cli.console import make_console
    from jtl.cli.memory import prepare_computing
    from jtl.config import Document, build, override, to_yaml
    from jtl.experiment.options import Config
    from jtl.study.rank import rank as rank_candidates
    from jtl.study.rank.picture import draw_ranking
    from jtl.study.rank.ranking import to_record
    from jtl.training.files import write_json, write_text

    console = make_console()
    prepare_computing()
    options = build(Config, override(Document(values={"data": {"source": data}}), set_)).data
    console.print(f"rank     {data}, at most {images:,} images")

    def tell(own: "Ranked", total: int) -> None:
        console.print(
            f"looked at {own.candidate.name} ({total} in all): probe "
            f"{own.scores['probe'].value:.4f}, {own.look.seconds:.0f} s"
        )

    names = [name.strip() for name in (models or "").split(",") if name.strip()]
    ranking = rank_candidates(
        options,
        models=names,
        folder=weights,
        budget=budget,
        images=images,
        seed=seed,
        tell=tell,
    )
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "rank.json", to_record(ranking))
    draw_ranking(ranking, output / "rank.png")
    config = output / f"{ranking.winner.candidate.name}.yaml"
    write_text(config, to_yaml(dataclasses.replace(ranking.config(), data=options)))
    _show(console, ranking, output, config)


def _show(console: Any, ranking: "Ranking", output: Path, config: Path) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("network")
    for name in ("probe", "kNN", "LogME", "H-score", "LEEP", "best stage", "params", "GMACs",
                 "images/s", "MB"):  # fmt: skip
        table.add_column(name, justify="right")
    for own in ranking.ranked:
        look = own.look
        macs = _ABSENT if look.multiply_adds is None else f"{look.multiply_adds / 1e9:.2g}"
        memory = _ABSENT if look.memory is None else f"{look.memory / 1e6:.0f}"
        stage = f"{own.best_stage} {own.stages[own.best_stage]:.3f}"
        cells = [_cell(own, "probe", True), _cell(own, "knn", True)]
        cells += [_cell(own, name) for name in ("logme", "h_score", "leep")]
        costs = [f"{look.parameters / 1e6:.1f}M", macs, f"{look.images_per_second:.0f}", memory]
        table.add_row(own.candidate.name, *cells, stage, *costs)
    console.print(table)
    for name, why in ranking.skipped.items():
        console.print(f"left out {name}: {why}")
    winner = ranking.winner
    if winner.best_stage != winner.last_stage:
        first = next(iter(winner.stages))
        freeze = first if winner.best_stage == first else f"{first}..{winner.best_stage}"
        console.print(
            f"note     {winner.best_stage} serves better than {winner.last_stage} here: train what "
            f"comes after it too, with --set train.phases.0.freeze={freeze}"
        )
    console.print(f"all in {output}: rank.json, rank.png, {config.name}")
    console.print(f"next     jtl train {config}")


def _cell(own: "Ranked", name: str, wide: bool = False) -> str:
    if name not in own.scores:
        return _ABSENT
    score = own.scores[name]
    interval = f" ±{(score.high - score.low) / 2:.3f}" if wide else ""
    return f"{score.value:.3f}{interval}"
