"""The rate finder of a config: the first phase's learning rate, tried out and not kept."""

from pathlib import Path

from jtl.data.sources.protocol import Source
from jtl.experiment.compilation import keep_compiled_programs
from jtl.experiment.options import Config
from jtl.experiment.setup import make_feed, set_up
from jtl.training.rate_finder import RateSearch, find_rate


def search_rate(config: Config, *, steps: int = 100, source: Source | None = None) -> RateSearch:
    """Searches the peak rate of a config's first phase; no folder is made.

    Args:
        config: what the run would be a function of.
        steps: how many rates are tried.
        source: the examples, in place of those that the config names.

    Raises:
        JtlError: as `train` does.
    """
    keep_compiled_programs()
    setup = set_up(config, Path("runs") / config.name, source)
    batches = make_feed(setup, None).batches(0, 0, steps)
    return find_rate(
        setup.phases[0],
        config.train.phases[0],
        setup.place,
        batches,
        setup.pretrained.variables,
        config.seed,
        steps=steps,
        loss_scale=config.model.precision == "float16",
    )
