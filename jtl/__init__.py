"""The public names of jtl, each imported when it is first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jtl import errors as errors
    from jtl.engine import losses as losses
    from jtl.engine import parallel as parallel
    from jtl.engine.evaluation import make_eval_step as make_eval_step
    from jtl.engine.freeze import freeze_labels as freeze_labels
    from jtl.engine.nnx import nnx_module as nnx_module
    from jtl.engine.nnx import nnx_variables as nnx_variables
    from jtl.engine.optim import partition_optimizer as partition_optimizer
    from jtl.engine.state import TrainState as TrainState
    from jtl.engine.step import make_train_step as make_train_step
    from jtl.report import explain as explain
    from jtl.report.run import finetune as finetune
    from jtl.report.run import load_run as load_run
    from jtl.weights.load import load_model as load_model
    from jtl.weights.save import save_weights as save_weights

    __version__: str

# Where each name lives; a module's own name stands for the module itself.
_HOMES = {
    "TrainState": "jtl.engine.state",
    "errors": "jtl.errors",
    "explain": "jtl.report.explain",
    "finetune": "jtl.report.run",
    "freeze_labels": "jtl.engine.freeze",
    "load_model": "jtl.weights.load",
    "load_run": "jtl.report.run",
    "losses": "jtl.engine.losses",
    "make_eval_step": "jtl.engine.evaluation",
    "make_train_step": "jtl.engine.step",
    "nnx_module": "jtl.engine.nnx",
    "nnx_variables": "jtl.engine.nnx",
    "parallel": "jtl.engine.parallel",
    "partition_optimizer": "jtl.engine.optim",
    "save_weights": "jtl.weights.save",
}

__all__ = [
    "TrainState",
    "errors",
    "explain",
    "finetune",
    "freeze_labels",
    "load_model",
    "load_run",
    "losses",
    "make_eval_step",
    "make_train_step",
    "nnx_module",
    "nnx_variables",
    "parallel",
    "partition_optimizer",
    "save_weights",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _HOMES:
        home = importlib.import_module(_HOMES[name])
        value = home if _HOMES[name].endswith(f".{name}") else getattr(home, name)
    else:
        raise AttributeError(f"module 'jtl' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("jtl")
    except metadata.PackageNotFoundError:
        return "0+not-installed"
