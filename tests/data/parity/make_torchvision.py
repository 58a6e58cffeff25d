"""Makes the fixtures that torchvision computed for this project; needs torch and torchvision.

Run from the project's folder: `PYTHONPATH=. python tests/data/parity/make_torchvision.py`. Tensors
follow the rule in `tests/golden.py`; everything is computed in float64 on the CPU.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchvision

from tests import golden

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SEED = 7


def prepare(arch: str, size: int, batch: int = 2) -> tuple[Any, torch.Tensor, dict[str, Any]]:
    """The peer with the rule's tensors in float64, its images, and the fixture's meta data."""
    options = {"init_weights": False} if arch == "inception_v3" else {}
    model = getattr(torchvision.models, arch)(weights=None, **options).double().eval()
    meta = {
        "peer": f"torchvision {torchvision.__version__}",
        "arch": arch,
        "seed": SEED,
        "image_seed": SEED + 1,
        "batch": batch,
        "size": size,
        "mean": MEAN,
        "std": STD,
        "layout": "torch OIHW",
        "tensors": [[name, list(t.shape)] for name, t in model.state_dict().items()],
    }
    tensors = {n: torch.from_numpy(np.asarray(t)) for n, t in golden.state_dict(meta).items()}
    model.load_state_dict(tensors, strict=True)
    pictures = golden.normalised(meta, golden.images(SEED + 1, batch, size))
    return model, torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()), meta


def write(name: str, meta: dict[str, Any], outputs: dict[str, torch.Tensor]) -> None:
    """One fixture; a map of features is stored as its mean over space."""
    arrays = {
        f"out:{key}": (t.mean((2, 3)) if t.ndim == 4 else t).detach().numpy()
        for key, t in outputs.items()
    }
    np.savez_compressed(golden.FOLDER / f"{name}.npz", meta=json.dumps(meta), **arrays)
    print(name, {key: array.shape for key, array in arrays.items()})


def keep(outputs: dict[str, torch.Tensor], name: str) -> Callable[..., None]:
    """A hook that stores what a module gives."""
    return lambda _module, _inputs, output: outputs.__setitem__(name, output)


def evaluation(arch: str, size: int, layers: tuple[str, ...], suffix: str = "") -> None:
    """Outputs in evaluation mode."""
    model, images, meta = prepare(arch, size)
    outputs: dict[str, torch.Tensor] = {}
    for layer in layers:
        model.get_submodule(layer).register_forward_hook(keep(outputs, layer))
    with torch.no_grad():
        outputs["logits"] = model(images)
    write(f"torchvision-{arch}{suffix}", meta, outputs)


def training(arch: str, size: int) -> None:
    """Logits of both heads of Inception in training mode, without dropout."""
    model, images, meta = prepare(arch, size, batch=3)
    model.train()
    model.dropout.p = 0.0
    with torch.no_grad():
        logits, aux = model(images)
    write(f"training-{arch}", meta, {"logits": logits, "aux": aux})


if __name__ == "__main__":
    stages = ("layer1", "layer2", "layer3", "layer4")
    evaluation("resnext50_32x4d", 128, stages)
    evaluation("wide_resnet50_2", 128, stages)
    evaluation("vgg11_bn", 64, ("features",), suffix="-64px")
    training("inception_v3", 299)
