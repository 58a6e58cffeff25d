"""Variables that numpy draws in no time, for tests that need values but no training."""

import zlib

import numpy as np

from jtl.models.registry import create_model
from jtl.tree import unflatten
from jtl.weights.layouts.identify import LAYOUTS
from jtl.weights.layouts.shapes import variable_shapes


def drawn_variables(model, seed=0, dtype=np.float32):
    """Random `params` and `batch_stats` of a model; every variance is above zero."""
    leaves = {}
    for path, leaf in variable_shapes(model).items():
        rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
        values = rng.standard_normal(leaf.shape)
        leaves[path] = (np.abs(values) + 0.1 if path.endswith("/var") else values).astype(dtype)
    return unflatten(leaves)


# A ResNet-18 of one narrow block a stage: what torchvision's own code would compute, but small.
TINY = {"stage_sizes": (1, 1, 1, 1), "widths": (4, 8, 12, 16)}


def tiny(num_classes=10, seed=0, dtype=np.float32, **fields):
    """The narrow ResNet-18 and variables for it."""
    model = create_model("resnet18", num_classes=num_classes, **TINY, **fields)
    return model, drawn_variables(model, seed, dtype)


def mini(num_classes=10, seed=0, dtype=np.float32, **fields):
    """The small model and variables for it."""
    model = create_model("resnet_mini", num_classes=num_classes, **fields)
    return model, drawn_variables(model, seed, dtype)


def blank_tensors(architecture, layout, **fields):
    """The tensors of a model in a layout, all ones and without memory of their own."""
    model = create_model(architecture, **fields)
    leaves = variable_shapes(model)
    one = np.float32(1)
    return {
        entry.source: entry.transform.inverse(np.broadcast_to(one, leaves[entry.destination].shape))
        for entry in LAYOUTS[layout].entries(model)
    }
