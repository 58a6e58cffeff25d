"""What do masks keyed by example cost, beside Flax's plain dropout in the same step?

    python -m benchmarks.key_price

One convolution network without normalisation is trained three ways that differ in dropout alone:
none, Flax's own (one key for the whole batch), and jtl's (one key an example, so that masks are
the same on any number of devices). Dropout stands behind every convolution, where it draws most,
or only before the head, where networks have it. The programs take turns.
"""

import os
import time
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np
import optax

import jtl
from benchmarks import record

Where = Literal["every feature map", "the head's input"]


class Net(nn.Module):
    """Three convolutions, a wide layer and a head.

    Attributes:
        where: what is dropped.
        rate: the share that is dropped.
        width: channels of the first convolution.
    """

    where: Where
    rate: float
    width: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """`[batch, h, w, 3]` to `[batch, 10]`."""
        maps = self.rate if self.where == "every feature map" else 0.0
        for index in range(3):
            x = nn.Conv(self.width << index, (3, 3), strides=(1 if index == 0 else 2,) * 2)(x)
            x = nn.Dropout(maps, deterministic=not train)(nn.relu(x))
        x = nn.relu(nn.Dense(16 * self.width)(x.mean((1, 2))))
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        return nn.Dense(10, name="head")(x)


def main() -> None:
    """Takes turns, prints the table and writes the JSON."""
    arguments = record.parser(__doc__).parse_args()
    on_cpu = jax.default_backend() == "cpu"
    batch, width, turns = (64, 32, 40) if on_cpu else (512, 64, 200)
    if arguments.smoke:
        batch, width, turns = 4, 4, 2
    rows = []
    print(f"batches of {batch}, width {width}, {jax.devices()[0].device_kind}")
    print(f"{'dropped':20} {'dropout':8} {'ms':>9} {'beside plain':>13}")
    for where in ("every feature map", "the head's input"):
        for name, figures, ratio in _measure(where, batch, width, turns):
            rows.append({"dropped": where, "name": name, "seconds": figures, "ratio": ratio})
            print(f"{where:20} {name:8} {1e3 * figures['median']:9.2f} {ratio:13.3f}")
    # Other work on the machine: what runs beside a measurement belongs to it.
    extra = {"batch": batch, "width": width, "load_average": os.getloadavg()[0]}
    print(record.write(arguments.results, "key_price", rows, **extra))


def _measure(
    where: Where, batch: int, width: int, turns: int
) -> list[tuple[str, dict[str, Any], float]]:
    rng = np.random.default_rng(0)
    data = jax.device_put(
        {
            "image": rng.standard_normal((batch, 32, 32, 3), np.float32),
            "label": rng.integers(0, 10, batch).astype(np.int32),
        }
    )
    none, net = (Net(where=where, rate=rate, width=width) for rate in (0.0, 0.5))
    models = {"none": none, "plain": _plain(net), "keyed": net}
    variables = net.init(jax.random.key(0), data["image"][:1])
    tx = optax.sgd(1e-3, momentum=0.9)
    steps = {name: jax.jit(jtl.make_train_step(model, tx)) for name, model in models.items()}
    states = {name: jtl.TrainState.create(variables, tx, rng=0) for name in models}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(turns + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            states[name], _ = jax.block_until_ready(step(states[name], data))
            if turn:  # the first turn compiles
                seconds[name].append(time.perf_counter() - start)
    figures = {name: record.spread(samples) for name, samples in seconds.items()}
    plain = figures["plain"]["median"]
    return [(name, own, own["median"] / plain) for name, own in figures.items()]


def _plain(net: Net) -> Any:
    """The network as a plain function, whose dropout jtl does not see."""

    def apply(variables: Any, images: jax.Array, train: bool, rngs: Any) -> tuple[jax.Array, Any]:
        keys = {"dropout": rngs["dropout"][0]} if train else {}
        logits: Any = net.apply({"params": variables["params"]}, images, train, rngs=keys)
        return logits, variables["batch_stats"]

    return apply


if __name__ == "__main__":
    main()
