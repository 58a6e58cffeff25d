"""What a run trains on: its batches, from a cache at the freeze boundary where there is one."""

from collections.abc import Sequence

import jax
import numpy as np

from jtl.errors import ConfigError
from jtl.experiment.assemble import Evaluator
from jtl.experiment.setup import Setup, make_feed
from jtl.training.cache.feed import CachedFeed
from jtl.training.cache.plan import Demand
from jtl.training.events import Event, Listener
from jtl.training.feed import Feed


def make_cached_feed(setup: Setup, evaluator: Evaluator, listeners: Sequence[Listener]) -> Feed:
    """What a run is trained on and validated with.

    Args:
        setup: the run.
        evaluator: of the validation split.
        listeners: hear what is cached.
    """
    config, examples = setup.config, setup.examples
    streamed = make_feed(setup, evaluator)
    if config.train.cache == "off" or jax.process_count() > 1:
        if config.train.cache not in ("off", "auto"):
            raise ConfigError(
                f"train.cache={config.train.cache} is for one process, but there are "
                f"{jax.process_count()}; set it to auto or off."
            )
        return streamed

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    order = examples.order(config)
    size = examples.reader.size
    demand = Demand(
        choice=config.train.cache,
        limits=config.train.cache_limits,
        augment=config.augment,
        order=order,
        val=len(examples.splits["val"]),
        image=jax.ShapeDtypeStruct((size, size, 3), np.uint8),
        place=setup.place,
        folder=setup.workdir,
    )
    return CachedFeed(
        streamed=streamed,
        phases=setup.phases,
        demand=demand,
        reader=examples.reader,
        unreadable=examples.unreadable,
        val=examples.splits["val"],
        eval_step=evaluator.step,
        eval_batch_size=evaluator.batch_size,
        preprocess=setup.pretrained.preprocess.to_dict(),
        options=config.data.read,
        tell=tell,
    )
