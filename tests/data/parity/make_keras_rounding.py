"""Makes `keras_rounding.npz`: the last places that the peer's float32 operations gave.

Run from the project's folder, with no options of XLA set, on the kind of machine that made the
Keras fixtures: `PYTHONPATH=. python tests/data/parity/make_keras_rounding.py`. Keras with jax
computes both operations by themselves with the two jax functions below; that the fixtures' outputs
then come out to the bit says that the machine is of that kind.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jtl.tree import flatten
from tests import golden
from tests.models import keras_rounding as rounding
from tests.models.test_parity import network, peer, rounds_in_float32, table, variables_of


def last_places(name: str) -> dict[str, np.ndarray]:
    """For one fixture, the steps from the correctly rounded roots and means to the peer's."""
    model = network(name)
    variables = variables_of(name, "float64", table(name, model))
    stats, roots = flatten(variables["batch_stats"]), []
    for path, var in stats.items():
        if path.endswith("/var"):
            correct = rounding.correct_roots(var, model.epsilon)
            own = jax.lax.rsqrt(jnp.asarray(var, jnp.float32) + model.epsilon)
            roots.append(np.asarray(own).view("int32") - correct.view("int32"))
    steps = np.concatenate(roots).astype("int8")
    variables["batch_stats"] = rounding.with_roots(
        variables["batch_stats"], model.epsilon, iter(steps)
    )
    fixture, _ = peer(name)
    images = golden.normalised(fixture["meta"], fixture["images"])
    maps, _ = rounding.run_stages(variables, model, images, lambda *_: False)
    own = np.asarray(jnp.mean(maps.astype(jnp.float32), axis=(1, 2)))
    pooled = own.view("int32") - rounding.correct_means(maps).view("int32")
    assert np.abs(pooled).max() < 100
    return {f"{name}/roots": steps, f"{name}/pooled": pooled.astype("int8")}


if __name__ == "__main__":
    found = {}
    with jax.enable_x64(True):
        for fixture_name in filter(rounds_in_float32, golden.names()):
            found |= last_places(fixture_name)
            print(fixture_name, flush=True)
    np.savez_compressed(rounding.DATA, **found)
