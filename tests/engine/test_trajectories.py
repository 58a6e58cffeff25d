"""The engine takes the steps that torch took: the same losses, norms and parameters.

The fixtures hold what torch 1.13 computed in float64 from tensors that a rule makes
(`tests/golden.py`): ResNet-18 at 64 px, six steps of eight images.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jtl
from tests import golden

FOLDER = Path(__file__).parents[1] / "data" / "trajectories"
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def optimizer(options):
    if options["name"] == "sgd":
        # torch adds decay to the gradient of every parameter, biases and norms included.
        decay = optax.add_decayed_weights(options["weight_decay"])
        return optax.chain(decay, optax.sgd(options["lr"], options["momentum"]))
    b1, b2 = options["betas"]
    return optax.adamw(options["lr"], b1, b2, options["eps"], weight_decay=options["weight_decay"])


def replay(name, dtype, steps=None):
    with np.load(FOLDER / f"trajectory-resnet18-{name}.npz", allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        expected = {key: file[key] for key in file.files if key != "meta"}
    tensors = golden.state_dict(meta)
    pretrained = jtl.load_model("resnet18", weights=tensors, param_dtype=dtype)
    freeze = ["stem..layer3"] if meta["frozen"] else []
    variables = pretrained.variables
    labels = jtl.freeze_labels(variables["params"], freeze)
    tx = jtl.partition_optimizer(optimizer(meta["optimizer"]), labels)
    loss = jtl.losses.cross_entropy(meta["label_smoothing"])
    step = jax.jit(jtl.make_train_step(pretrained.model, tx, freeze=freeze, loss=loss))
    state = jtl.TrainState.create(variables, tx, rng=0)
    losses, norms = [], []
    for index in range(steps or meta["steps"]):
        images = golden.images(meta["seed"] + 100 + index, meta["batch"], meta["size"])
        batch = {
            "image": ((images / 255 - MEAN[None]) / STD[None]).astype(dtype),
            "label": expected["labels"][index].astype(np.int32),
        }
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
        norms.append(float(metrics["grad_norm"]))
    return state, np.asarray(losses), np.asarray(norms), expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["last-stage-sgd", "full-adamw"])
def test_every_step_is_torchs_in_float64(name, x64, optimized):
    state, losses, norms, expected = replay(name, jnp.float64)
    np.testing.assert_allclose(losses, expected["losses"], rtol=1e-8)
    np.testing.assert_allclose(norms, expected["grad_norms"], rtol=1e-8)
    np.testing.assert_allclose(state.params["head"]["kernel"].T, expected["head_final"], atol=1e-8)
    mean = state.batch_stats["layer4"]["block1"]["bn2"]["mean"]
    assert str(expected["last_running_mean_name"]) == "layer4.1.bn2.running_mean"
    np.testing.assert_allclose(mean, expected["last_running_mean"], atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), [("last-stage-sgd", 6), ("full-adamw", 1)])
def test_float32_stays_near_torchs_float64(name, steps, optimized):
    # Rounding grows in full training with AdamW, in any framework: there only the first step.
    _, losses, norms, expected = replay(name, jnp.float32, steps)
    np.testing.assert_allclose(losses[:steps], expected["losses"][:steps], rtol=1e-4)
    np.testing.assert_allclose(norms[:steps], expected["grad_norms"][:steps], rtol=1e-4)
