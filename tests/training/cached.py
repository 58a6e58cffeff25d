"""A small network trained by hand, through a feed that may or may not keep a cache."""

import dataclasses
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jtl
from jtl.data.augment import AugmentOptions
from jtl.data.pipeline import IN_THREADS, TrainOrder, eval_batches, train_steps
from jtl.data.reader import Reader
from jtl.data.sources.arrays import ArraySource
from jtl.engine.evaluation import make_eval_step
from jtl.experiment.assemble import make_prepare
from jtl.training.cache.feed import CachedFeed
from jtl.training.cache.options import CacheLimits
from jtl.training.cache.plan import Demand
from jtl.training.evaluate import evaluate
from jtl.training.feed import Streamed
from jtl.training.options import PhaseOptions, TrainOptions
from jtl.training.phases import make_phases
from jtl.training.unreadable import Unreadable
from jtl.weights.preprocess import Preprocess
from tests.engine.nets import mini, variables_of

BATCH, EVAL_BATCH, CLASSES = 8, 8, 4
RNG = np.random.default_rng(0)
SOURCE = ArraySource(
    images=RNG.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8),
    labels=RNG.integers(0, CLASSES, 24).astype(np.int32),
    classes=("a", "b", "c", "d"),
)
# Twelve to train on, so that batches of eight run over the ends of epochs; five to validate.
TRAIN, VAL = np.arange(1, 24, 2), np.arange(0, 10, 2)
# Powers of two, so that no program rounds what images are normalised to.
PREPROCESS = Preprocess(
    input_size=8, resize=8, scale=1 / 256, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
)
VARIED = AugmentOptions(flip=0.5, noise=8.0, views=2)
PLACEMENTS = {
    "single": jtl.parallel.single,
    "pmap": lambda: jtl.parallel.pmap(jax.devices()[:4]),
    "mesh": lambda: jtl.parallel.mesh(jax.devices()[:4]),
    "mesh in parts": lambda: jtl.parallel.mesh(jax.devices()[:4], model=2, zero=True),
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """One phase of training, ready to be run with a cache and without one."""

    freeze: str | tuple[str, ...] = "backbone"
    augment: AugmentOptions = AugmentOptions()
    place: object = dataclasses.field(default_factory=jtl.parallel.single)
    model: object = dataclasses.field(default_factory=lambda: mini(dropout_rate=0.3))
    variables: object = None
    epochs: float = 4.0
    phase: dict = dataclasses.field(default_factory=dict)
    train: dict = dataclasses.field(default_factory=dict)
    source: ArraySource = SOURCE
    seed: int = 3
    dtype: object = jnp.float32

    @property
    def start(self):
        """The variables that training starts from."""
        if self.variables is not None:
            return self.variables
        return variables_of(self.model, dtype=self.dtype)

    @property
    def reader(self):
        return Reader(source=self.source, size=8, fit=PREPROCESS.resize_and_crop)

    @property
    def order(self):
        return TrainOrder(indices=TRAIN, batch_size=BATCH, seed=self.seed, views=self.augment.views)

    @property
    def phases(self):
        option = PhaseOptions(freeze=self.freeze, epochs=self.epochs, **self.phase)
        prepare = make_prepare(PREPROCESS, self.augment, CLASSES)
        options = TrainOptions(phases=(option,), **self.train)
        return make_phases(options, self.model, self.start["params"], self.order, prepare)

    def state(self):
        """The state before the first step."""
        ema = self.train.get("ema_decay") is not None
        return jtl.TrainState.create(self.start, self.phases[0].tx, rng=self.seed, ema=ema)

    def feed(self, choice, folder=None, tell=lambda event: None, limits=None):
        """The feed with rows kept at a place, or nowhere with `off`."""
        eval_step = make_eval_step(self.model, prepare=make_prepare(PREPROCESS))
        compiled = self.place.compile(eval_step)

        def check(variables):
            batches = eval_batches(self.reader, VAL, EVAL_BATCH)
            return evaluate(self.place, compiled, variables, batches)

        streamed = Streamed(
            read=lambda start, stop: train_steps(self.reader, self.order, start=start, stop=stop),
            place=self.place,
            classes=CLASSES,
            check=check,
        )
        demand = Demand(
            choice=choice,
            limits=limits or CacheLimits(),
            augment=self.augment,
            order=self.order,
            val=len(VAL),
            image=jax.ShapeDtypeStruct((8, 8, 3), np.uint8),
            place=self.place,
            folder=Path(tempfile.mkdtemp()) if folder is None else folder,
        )
        return CachedFeed(
            streamed=streamed,
            phases=self.phases,
            demand=demand,
            reader=self.reader,
            unreadable=Unreadable(self.source),
            val=VAL,
            eval_step=eval_step,
            eval_batch_size=EVAL_BATCH,
            preprocess=PREPROCESS.to_dict(),
            options=IN_THREADS,
            tell=tell,
        )

    def run(self, choice, *, state=None, stop=None, feed=None):
        """Trains to a step: the whole state, metrics of each step, and of validation."""
        phase, state = self.phases[0], self.state() if state is None else state
        feed = self.feed(choice) if feed is None else feed
        tail = feed.enter(0, state)
        compiled = self.place.compile(phase.step if tail is None else tail)
        running = self.place.put_state(state if tail is None else tail.cut(state))
        metrics = []
        for batch in feed.batches(0, int(state.step), phase.stop if stop is None else stop):
            running, own = compiled(running, batch)
            metrics.append({name: float(value) for name, value in own.items()})
        ema = "ema_decay" in self.train
        checked = feed.validate(0, running.ema_variables if ema else running.variables).metrics
        plain = self.place.get_state(running)
        return (plain if tail is None else tail.whole(plain, state)), metrics, checked, tail
