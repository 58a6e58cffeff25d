"""Writes the torch and ONNX files beside it: `python make_torch.py` with torch 2.13, onnx 1.23.

Every tensor number k of a state dict holds k + i/8 at its flat place i, so that the tests know
the values without torch.
"""

import collections
import pathlib

import torch
from torch import nn

HERE = pathlib.Path(__file__).parent


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(Block(), Block())
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = self.layer1(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


def fill(module):
    with torch.no_grad():
        for k, tensor in enumerate(module.state_dict().values()):
            values = k + torch.arange(tensor.numel()) / 8
            tensor.copy_(values.reshape(tensor.shape).to(tensor.dtype))
    return module


def save_wrapped(net, state):
    torch.save(
        {
            "epoch": 3,
            "arch": "net",
            "state_dict": {f"module._orig_mod.{name}": value for name, value in state.items()},
            "state_dict_ema": {name: value * 2 for name, value in state.items()},
            "optimizer": torch.optim.SGD(net.parameters(), 0.1).state_dict(),
            "best": torch.tensor(0.5),
        },
        HERE / "torch-wrapped.pth",
    )


def save_views():
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    torch.save(
        collections.OrderedDict(
            base=base,
            transposed=base.T,
            column=base[:, 2],
            inner=base[1:3, 2:5],
            parameter=nn.Parameter(base[:2, :2].clone()),
            bfloat16=torch.arange(4).to(torch.bfloat16),
            half=torch.arange(4).to(torch.float16),
            double=torch.arange(4).to(torch.float64),
            float8=torch.arange(4).to(torch.float8_e4m3fn),
            unsigned=torch.arange(4).to(torch.uint16),
            flag=torch.tensor([True, False]),
            complex=torch.tensor([1 + 2j]),
            scalar=torch.tensor(7),
            empty=torch.zeros(0, 3),
        ),
        HERE / "torch-views.pt",
    )


def export(net, name, training, folding):
    torch.onnx.export(
        net.eval(),
        (torch.zeros(1, 3, 12, 12),),
        HERE / name,
        training=training,
        do_constant_folding=folding,
        dynamo=False,
    )


def main():
    net = fill(Net())
    state = net.state_dict()
    torch.save(state, HERE / "torch-plain.pth")
    torch.save(state, HERE / "torch-legacy.pth", _use_new_zipfile_serialization=False)
    save_wrapped(net, state)
    save_views()
    torch.save(net, HERE / "torch-module.pt")
    torch.jit.script(net.eval()).save(HERE / "torch-script.pt")
    export(net, "torch-folded.onnx", torch.onnx.TrainingMode.EVAL, True)
    export(net, "torch-separate.onnx", torch.onnx.TrainingMode.PRESERVE, False)
    torch.onnx.export(
        net.eval(),
        (torch.zeros(1, 3, 12, 12),),
        HERE / "torch-dynamo.onnx",
        dynamo=True,
        external_data=False,
    )


if __name__ == "__main__":
    main()
