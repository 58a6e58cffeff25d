"""PyTorch's side of a training step: torchvision's network, as PyTorch's own guides advise.

Channels last, autocast for bfloat16, TF32 where asked for, the fused AdamW and, as a variant,
`torch.compile`. Frozen BatchNorms use their stored statistics, as in jtl.
"""

from typing import Any

import torch
import torchvision

from benchmarks.contest.cell import CLASSES, Cell
from benchmarks.contest.serve import peak_resident_bytes, serve

# The children that come before what is trained as the last stage.
_EARLY = {
    "resnet": ("conv1", "bn1", "layer1", "layer2", "layer3"),
    "vgg16": tuple(f"features.{i}" for i in range(24)),
    "inception_v3": (
        *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"),
        *("Mixed_5b", "Mixed_5c", "Mixed_5d"),
        *("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    ),
}
_HEADS = ("fc", "classifier.6")


class TorchSide:
    """A network, its optimizer and the batch."""

    def __init__(self, cell: Cell, variant: str) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        fast = cell.precision != "float32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = fast
        torch.backends.cudnn.benchmark = True
        self._autocast = cell.precision == "bfloat16"
        images, labels = cell.arrays()
        self._images, model = torch.from_numpy(images).to(self._device), _network(cell)
        model = model.to(self._device)
        if not cell.cached:
            model = model.to(memory_format=torch.channels_last)
            # From channels last to channels first in name only: the bytes stay where they are.
            self._images = self._images.permute(0, 3, 1, 2)
        self._labels = torch.from_numpy(labels).long().to(self._device)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
        self._model: Any = torch.compile(model) if variant == "compile" else model

    def run(self, steps: int) -> None:
        """So many updates."""
        for _ in range(steps):
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
                logits = self._model(self._images)
            loss = torch.nn.functional.cross_entropy(logits.float(), self._labels)
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def facts(self) -> dict[str, Any]:
        """The memory that it took at most."""
        if self._device.type == "cuda":
            return {"peak_bytes": torch.cuda.max_memory_allocated(), "peak_by": "allocator"}
        return {"peak_bytes": peak_resident_bytes(), "peak_by": "process"}


def _network(cell: Cell) -> torch.nn.Module:
    if cell.cached:
        return torch.nn.Linear(cell.width, CLASSES)
    options: dict[str, Any] = {"vgg16": {"dropout": 0.0}}.get(cell.network, {})
    if cell.network == "inception_v3":
        options = {"dropout": 0.0, "aux_logits": False, "init_weights": False}
    make = getattr(torchvision.models, cell.network)
    model: torch.nn.Module = make(num_classes=CLASSES, **options)
    model.train()
    for name, module in model.named_modules():
        if _is_frozen(name, cell):
            module.eval()
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
    return model


def _is_frozen(name: str, cell: Cell) -> bool:
    if not name or cell.trained == "full":
        return False
    if cell.trained == "head only":
        return name not in _HEADS
    early = _EARLY["resnet" if cell.network.startswith("resnet") else cell.network]
    return any(name == own or name.startswith(f"{own}.") for own in early)


if __name__ == "__main__":
    serve(TorchSide)
