"""Exports for torchvision and timm, loaded and run there; both are installed for this alone."""

import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from jtl.export import export_run
from jtl.models.registry import create_model
from jtl.weights.save import save_weights
from tests.experiment import runs

pytestmark = pytest.mark.soak

NETS = {"resnet18": 96, "wide_resnet50_2": 96, "vgg11_bn": 64, "inception_v3": 139}


@pytest.fixture(scope="module")
def torch():
    found = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    pytest.importorskip("timm")
    return found


def random_variables(model, size):
    """Parameters and statistics of which none is 0 or 1, so that a mistaken place shows."""
    rng = np.random.default_rng(0)
    image = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)

    def draw(path, leaf):
        name, fan = path[-1].key, max(1, int(np.prod(leaf.shape[:-1])))
        spread = np.sqrt(2 / fan) if name == "kernel" else 0.1
        middle = 1.0 if name in ("scale", "var") else 0.0
        return (middle + spread * rng.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("layout", ["torchvision", "timm"])
def test_weights_load_strictly_and_say_the_same(torch, tmp_path, layout, name):
    import timm
    import torchvision
    from safetensors.torch import load_file

    size = NETS[name]
    model = create_model(name, num_classes=7)
    variables = random_variables(model, size)
    path = tmp_path / "model.safetensors"
    save_weights(path, model, variables, layout=layout)
    extra = {"aux_logits": False, "init_weights": False} if name == "inception_v3" else {}
    if layout == "torchvision":
        other = getattr(torchvision.models, name)(num_classes=7, **extra)
    else:
        other = timm.create_model(name, num_classes=7)
    other.load_state_dict(load_file(str(path)), strict=True)
    images = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        said = other.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    own = np.asarray(jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images))
    np.testing.assert_allclose(said, own, atol=2e-4 * np.abs(own).max())


@pytest.mark.parametrize("form", ["torchvision", "timm"])
def test_the_code_on_the_card_runs(torch, tmp_path, form):
    options = runs.config(
        model={"name": "resnet18", "weights": None},
        train__phases=[{"freeze": "backbone", "steps": 1}],
    )
    run = runs.run(tmp_path / "run", options)
    _, _, card = export_run(run, form, tmp_path / "model.safetensors")
    code = re.search(r"```python\n(.*?)```", card.read_text("utf-8"), re.DOTALL)[1]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
