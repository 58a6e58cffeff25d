"""What a compiled program's text says: its operations, sums over devices, a library's calls."""

import dataclasses
import math
import re
from collections.abc import Sequence

_SHAPE = re.compile(r"\b(bf16|f8\w+|[fsu]\d+|pred)\[([\d,]*)\]")
_MADE = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.*)$")
_BEGIN = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_CODE = re.compile(r"(?:^|[\s}\])])([a-z][a-z-]*)\(")
_NAME = re.compile(r"%([\w.-]+)")
_CALLS = re.compile(r"\bcalls=%?([\w.-]+)")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_SOURCE = re.compile(r'op_name="([^"]*)"')
_CALL = re.compile(r"custom-call\((.*?)\), .*custom_call_target=\"__(?:cudnn\$conv|cublas)(.*?)\"")
_KERNEL = re.compile(r"dim_labels=\w+_(\w+)->")
_OPERATION = re.compile(r" (fusion|custom-call|all-reduce(?:-start|-done)?)\(%?([\w.-]*)")
# Which of result, first and second operand are the outputs of a convolution and its kernel.
_ROLES = {"BackwardInput": (1, 2), "BackwardFilter": (2, 0)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sum:
    """A sum over devices in a compiled program.

    Attributes:
        bytes: of the tensors that it takes together.
        meanwhile: bytes that other work reads and writes between its beginning and its end.
    """

    bytes: int
    meanwhile: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of a compiled program, which may be many fused into one.

    Attributes:
        part: of a training step: `forward`, `backward` or `update`.
        kind: `products` (convolutions, too), `sums`, `layout` or `elementwise`.
        bytes: of what it reads and writes.
    """

    part: str
    kind: str
    bytes: int


def operations(text: str) -> dict[str, Operation]:
    """The operations of a program by name, those of called computations among them.

    What a fusion consists of is not listed by itself.
    """
    bodies: dict[str, list[_Line]] = {}
    for line in text.splitlines():
        if begin := _BEGIN.match(line):
            body = bodies.setdefault(begin[1], [])
        elif made := _MADE.match(line):
            body.append(_Line.read(*made.groups(), root="ROOT " in line))
    fused = {own.calls for body in bodies.values() for own in body if own.code == "fusion"}
    found = {}
    for name, body in bodies.items():
        sizes = {own.name: own.bytes for own in body}
        for own in body if name not in fused else ():
            inside = bodies.get(own.calls, []) if own.code == "fusion" else []
            moved = own.bytes + sum(sizes.get(each, 0) for each in own.operands)
            kind = _kind(own, {each.code for each in inside})
            found[own.name] = Operation(part=_part(own, inside), kind=kind, bytes=moved)
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Line:
    name: str
    code: str
    bytes: int
    operands: tuple[str, ...]
    calls: str
    target: str
    source: str
    root: bool

    @classmethod
    def read(cls, name: str, rest: str, *, root: bool) -> "_Line":
        code = _CODE.search(rest)
        result, behind = (rest[: code.start()], rest[code.end() :]) if code else (rest, "")
        calls, target, source = (own.search(behind) for own in (_CALLS, _TARGET, _SOURCE))
        return cls(
            name=name,
            code=code[1] if code else "",
            bytes=sum(_bytes(*shape) for shape in _SHAPE.findall(result)),
            operands=tuple(_NAME.findall(behind.partition(")")[0])),
            calls=calls[1] if calls else "",
            target=target[1] if target else "",
            source=source[1] if source else "",
            root=root,
        )


def _kind(own: _Line, inside: set[str]) -> str:
    codes = {own.code, *inside}
    if codes & {"convolution", "dot"} or re.search("conv|gemm|dot", own.target):
        return "products"
    if codes & {"reduce", "reduce-window"}:
        return "sums"
    if codes & {"copy", "transpose"}:
        return "layout"
    return "elementwise"


def _part(own: _Line, inside: Sequence[_Line]) -> str:
    sources = [own.source, *(each.source for each in inside if each.root)]
    source = next(filter(None, sources), "")
    if "transpose(" in source:
        return "backward"
    return "forward" if "jvp(" in source else "update"


def sums_over_devices(text: str) -> tuple[Sum, ...]:
    """The all-reduces of a program, in their order."""
    work = operations(text)
    found: dict[str, Sum] = {}
    open_: set[str] = set()
    for line in text.splitlines():
        made = _MADE.match(line)
        operation = made and _OPERATION.search(made[2])
        if not made or not operation:
            continue
        size = sum(_bytes(*shape) for shape in _SHAPE.findall(made[2][: operation.start()]))
        if operation[1] in ("fusion", "custom-call"):
            moved = work[made[1]].bytes if made[1] in work else 0  # else it is part of a fusion
            for name in open_:
                own = found[name]
                found[name] = dataclasses.replace(own, meanwhile=own.meanwhile + moved)
        elif operation[1] == "all-reduce-done":
            open_.discard(operation[2])
        else:
            found[made[1]] = Sum(bytes=size)
            if operation[1] == "all-reduce-start":
                open_.add(made[1])
    return tuple(found.values())


def library_calls(text: str) -> tuple[float, int]:
    """Operations and bytes of convolutions and products that a program leaves to a library.

    A compiler's own count leaves both out. A multiplication with its addition is two operations;
    operands are read and results written once.
    """
    shapes: dict[str, tuple[str, str]] = {}
    flops, moved = 0.0, 0
    for line in text.splitlines():
        made = _MADE.match(line)
        if made is None:
            continue
        name, rest = made.groups()
        kinds = _SHAPE.findall(rest)
        if kinds:
            shapes[name] = kinds[0]
        call = _CALL.search(rest)
        if call is None:
            continue
        operands = [own.strip().lstrip("%") for own in call[1].split(",")]
        own = [kinds[0], *(shapes[operand] for operand in operands[:2])]
        moved += sum(_bytes(*shape) for shape in own)
        flops += _operations(call[2], [math.prod(_sizes(shape)) for _, shape in own], own, rest)
    return flops, moved


def _operations(target: str, sizes: list[int], own: list[tuple[str, str]], rest: str) -> float:
    kernel = _KERNEL.search(rest)
    if kernel is None:  # a product of matrices, whose three sizes are mk, kn and mn
        return 2 * math.sqrt(math.prod(sizes))
    outputs, place = next((roles for key, roles in _ROLES.items() if key in target), (0, 2))
    channels = _sizes(own[place][1])[kernel[1].index("o")]
    return 2 * sizes[outputs] * sizes[place] / channels


def _sizes(shape: str) -> list[int]:
    return [int(size) for size in shape.split(",") if size]


def _bytes(dtype: str, shape: str) -> int:
    bits = re.search(r"\d+", dtype)
    return math.prod(_sizes(shape)) * (int(bits[0]) // 8 if bits else 1)
