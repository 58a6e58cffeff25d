"""Trains a small ResNet on digits with PyTorch, as a script does: `SEED EPOCHS`."""

import sys

import torch
from torch import nn
from torch.nn import functional

from benchmarks.peers import digits


class Block(nn.Module):
    """Two 3×3 convolutions and what goes around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.around: nn.Module = nn.Identity()
        if stride > 1:
            reduced = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.around = nn.Sequential(reduced, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, inputs, h, w]` to `[batch, outputs, h/stride, w/stride]`."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.around(x))


def network() -> nn.Module:
    """The layers of jtl's `resnet_mini`."""
    first, second, third = digits.WIDTHS
    stem = [nn.AvgPool2d(2), nn.Conv2d(3, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first)]
    blocks = [Block(first, first, 1), Block(first, second, 2), Block(second, third, 2)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(third, 10)]
    return nn.Sequential(*stem, nn.ReLU(), *blocks, *head)


def main() -> None:
    """Trains, and says the validation accuracy after each epoch."""
    seed, epochs = (int(text) for text in sys.argv[1:])
    torch.manual_seed(seed)
    (images, labels), (val_images, val_labels) = (
        (torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), torch.from_numpy(y))
        for x, y in digits.load(seed)
    )
    model = network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = epochs * (len(labels) // digits.BATCH)
    tx = torch.optim.AdamW(model.parameters(), digits.RATE, weight_decay=digits.DECAY, fused=True)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(tx, steps)
    for epoch in range(epochs):
        model.train()
        for rows in digits.shuffled(len(labels), seed, epoch):
            tx.zero_grad(set_to_none=True)
            functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            tx.step()
            rate.step()
        model.eval()
        with torch.no_grad():
            right = model(val_images).argmax(1) == val_labels
        digits.say(epoch + 1, float(right.float().mean()))


if __name__ == "__main__":
    main()
