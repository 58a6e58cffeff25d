"""Reads the weights of an ONNX graph under the names that their network gave them."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from jtl.errors import WeightsError
from jtl.weights.readers.onnx_graph import Graph, Node, read_graph
from jtl.weights.readers.weight_file import WeightFile, check_expansion

# Which inputs of an operation are weights, and what torch calls them.
_SLOTS: dict[str, tuple[str, ...]] = {
    "Conv": ("", "weight", "bias"),
    "Gemm": ("", "weight", "bias"),
    "BatchNormalization": ("", "weight", "bias", "running_mean", "running_var"),
}
_PARAMETER = re.compile(r"(?P<layer>.+)\.(weight|bias|running_mean|running_var)")
_PASSED_ON = ("Identity",)


def read_onnx(path: Path) -> WeightFile:
    """The weights of convolutions, dense layers and normalisations of an ONNX file.

    A tensor keeps a name such as `layer1.0.conv1.weight`. An anonymous one (`onnx::Conv_497`)
    takes its layer's name from the node's scope, `/layer1/layer1.0/conv1/Conv`; where that is
    missing too, from the operation and its rank: `Conv.17.weight`. `metadata["graph_order"]`
    lists the layers in order of execution as JSON `[[operation, layer], …]`, and
    `metadata["batch_norm"]` says `separate`, or `absent` where it was folded or never there.

    Raises:
        WeightsError: the file is damaged, or its data lies outside its folder.
    """
    graph = read_graph(path)
    check_expansion(
        str(path), graph.stored, sum(tensor.nbytes for tensor in graph.tensors.values())
    )
    known = _with_aliases(graph)
    order, names, transposed = _name_weights(path, graph, known)
    tensors = {
        name: known[source].T if source in transposed else known[source]
        for source, name in names.items()
    }
    separate = any(kind == "BatchNormalization" for kind, _ in order)
    return WeightFile(
        path=str(path),
        format="onnx",
        tensors=tensors,
        metadata={
            "producer": graph.producer,
            "graph_order": json.dumps(order),
            "batch_norm": "separate" if separate else "absent",
        },
        notes=tuple(_notes(graph, names, transposed)),
    )


def _with_aliases(graph: Graph) -> dict[str, np.ndarray]:
    """Tensors under their names and under those that Identity nodes give equal ones."""
    known = dict(graph.tensors)
    for node in graph.nodes:
        if node.kind in _PASSED_ON and len(node.inputs) == len(node.outputs) == 1:
            tensor = known.get(node.inputs[0])
            if tensor is not None:
                known[node.outputs[0]] = tensor
    return known


def _name_weights(
    path: Path, graph: Graph, known: Mapping[str, np.ndarray]
) -> tuple[list[tuple[str, str]], dict[str, str], set[str]]:
    """The layers in order, each used tensor's name, and which tensors are to be transposed."""
    order: list[tuple[str, str]] = []
    names: dict[str, str] = {}
    transposed: set[str] = set()
    ranks: Counter[str] = Counter()
    for node in graph.nodes:
        used = list(_weights_of(node, known))
        if not used:
            continue
        layer = _layer_name(node, [source for source, _ in used], ranks[node.kind])
        ranks[node.kind] += 1
        order.append((node.kind, layer))
        for source, slot in used:
            names.setdefault(source, source if _is_own(source, slot) else f"{layer}.{slot}")
        # torch keeps dense weights as [out, in]; a Gemm without transB multiplies by [in, out].
        if node.kind == "Gemm" and not node.integers.get("transB", 0):
            transposed.add(used[0][0])
    taken = Counter(names.values())
    twice = sorted(name for name, count in taken.items() if count > 1)
    if twice:
        raise WeightsError(
            f"{path}: two tensors would be named {', '.join(twice[:8])}; export it again with "
            "the parameters' names kept."
        )
    return order, names, transposed


def _weights_of(node: Node, known: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str]]:
    for source, slot in zip(node.inputs, _SLOTS.get(node.kind, ())):
        if slot and source in known:
            yield source, slot


def _is_own(source: str, slot: str) -> bool:
    return _PARAMETER.fullmatch(source) is not None and source.endswith(f".{slot}")


def _layer_name(node: Node, sources: list[str], rank: int) -> str:
    for source in sources:
        match = _PARAMETER.fullmatch(source)
        if match:
            return match["layer"]
    return _scope(node) or f"{node.kind}.{rank}"


def _scope(node: Node) -> str:
    """The module that a torch export's node belongs to: `/layer1/layer1.0/conv1/Conv`."""
    if not node.name.startswith("/"):
        return ""
    *modules, operation = node.name.strip("/").split("/")
    if re.sub(r"_\d+$", "", operation) != node.kind:
        return ""
    # A container's own step is repeated in front of its member's: layer1, layer1.0.
    following = [*modules[1:], ""]
    kept = [own for own, after in zip(modules, following) if not after.startswith(f"{own}.")]
    return ".".join(kept)


def _notes(graph: Graph, names: Mapping[str, str], transposed: set[str]) -> Iterator[str]:
    renamed = sum(source != name for source, name in names.items())
    if renamed:
        yield f"named {renamed} of {len(names)} tensors by their place in the graph"
    if transposed:
        yield f"transposed {len(transposed)} dense weights to [out, in]"
    aside = [name for name in graph.tensors if name not in names]
    if aside:
        shown = ", ".join(aside[:5]) + (", …" if len(aside) > 5 else "")
        yield f"left aside {len(aside)} constants that no layer reads as a weight: {shown}"
