"""The picture of a ranking: quality against cost."""

from pathlib import Path

from jtl.study.rank.ranking import Ranking


def draw_ranking(ranking: Ranking, path: Path) -> None:
    """Draws each candidate's accuracy, with its interval, against its speed here.

    Args:
        ranking: what is drawn.
        path: of the PNG.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for own in ranking.ranked:
        score, speed = own.scores["probe"], own.look.images_per_second
        errors = [[score.value - score.low], [score.high - score.value]]
        axes.errorbar([speed], [score.value], yerr=errors, fmt="o", capsize=4)
        axes.annotate(
            own.candidate.name,
            (speed, score.value),
            xytext=(7, 5),
            textcoords="offset points",
            fontsize=9,
        )
    axes.set_xscale("log")
    speeds = [own.look.images_per_second for own in ranking.ranked]
    few = max(speeds) < 10 * min(speeds)  # decades alone would leave an axis without figures
    plain, none = FuncFormatter(lambda value, _: f"{value:,.4g}"), NullFormatter()
    axes.xaxis.set_major_formatter(plain)
    axes.xaxis.set_minor_formatter(plain if few else none)
    axes.margins(x=0.25)
    axes.set_xlabel("images a second, here")
    axes.set_ylabel("accuracy of a linear probe, cross-validated")
    axes.set_title(f"{ranking.data}: {ranking.examples:,} images, {ranking.classes} classes")
    axes.grid(visible=True, which="both", alpha=0.25)
    figure.savefig(path, dpi=150)
