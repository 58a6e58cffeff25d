"""A training script as Flax's and Orbax's guides write it: it saves now and then, and goes on.

Its arguments are the network, the folder of checkpoints, the folder of compiled programs and how
many steps lie between two saves. It says a line of JSON after every step, for ever.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Goes on from the newest checkpoint, or begins."""
    name, folder, cache, every = sys.argv[1:]
    import jax
    import numpy as np
    import optax
    import orbax.checkpoint as ocp

    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    from jtl.models.registry import MODELS

    spec = MODELS[name]
    model = spec.family(num_classes=10, **next(iter(spec.variants.values())))
    tx = optax.adamw(1e-3)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((64, 128, 128, 3), np.float32)
    labels = rng.integers(0, 10, 64)

    @jax.jit
    def begin(key: jax.Array) -> dict[str, Any]:
        variables = model.init(key, images[:1], train=False)
        return {"variables": variables, "opt_state": tx.init(variables["params"])}

    def step(state: dict[str, Any], batch: dict[str, Any]) -> tuple[dict[str, Any], jax.Array]:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            variables = {**state["variables"], "params": params}
            logits, new = model.apply(
                variables, batch["image"], train=True, mutable=["batch_stats"]
            )
            own = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
            return own.mean(), new

        params = state["variables"]["params"]
        (value, new), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(grads, state["opt_state"], params)
        variables = {"params": optax.apply_updates(params, updates), **new}
        return {"variables": variables, "opt_state": opt_state}, value

    compiled = jax.jit(step, donate_argnums=0)
    options = ocp.CheckpointManagerOptions(max_to_keep=2, save_interval_steps=int(every))
    manager = ocp.CheckpointManager(Path(folder).absolute(), options=options)
    newest = manager.latest_step()
    key = jax.random.key(0)
    if newest is None:
        state = begin(key)
    else:
        shapes = jax.eval_shape(begin, key)
        state = manager.restore(newest, args=ocp.args.StandardRestore(shapes))
    number = newest or 0
    while True:
        number += 1
        rows = np.arange(8 * number, 8 * number + 8) % len(labels)
        state, value = compiled(state, {"image": images[rows], "label": labels[rows]})
        print(json.dumps({"step": number, "loss": float(value)}), flush=True)
        manager.save(number, args=ocp.args.StandardSave(state))


if __name__ == "__main__":
    main()
