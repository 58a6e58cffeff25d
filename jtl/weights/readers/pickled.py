"""Interprets the pickle opcodes that a state dict needs; imports nothing that a pickle names."""

import pickletools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from jtl.errors import WeightsError

# ResNet-152 with optimizer state takes 200,000; each may cost 100 bytes of memory.
_MOST_OPCODES = 1_000_000
_KEYS = (str, int, float, bool, type(None))


def interpret(
    where: str,
    file: BinaryIO,
    allowed: Mapping[str, Any],
    persistent: Callable[[Any], Any],
) -> Any:
    """The object that the pickle at the file's position describes.

    Args:
        where: the file, for messages.
        file: read up to the pickle's end and no further.
        allowed: for each global that may occur, such as `collections.OrderedDict`, our own
            stand-in: a function where the pickle may call it.
        persistent: makes an object from a persistent id.

    Raises:
        WeightsError: the pickle is damaged, or it names anything that is not allowed.
    """
    machine = _Machine(where, allowed, persistent)
    try:
        return _run(machine, file)
    # genops and our stand-ins raise these on damaged input, whatever byte is wrong.
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, AttributeError) as error:
        raise WeightsError(
            f"{where}: its pickle is damaged ({type(error).__name__}: {error}); "
            "fetch or save it again."
        ) from error


def _run(machine: "_Machine", file: BinaryIO) -> Any:
    with warnings.catch_warnings():
        # Damaged text makes Python warn of its escapes before it fails.
        warnings.simplefilter("ignore")
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count >= _MOST_OPCODES:
                raise WeightsError(
                    f"{machine.where}: its pickle is longer than {_MOST_OPCODES:,} steps, far "
                    "more than weights need; save the state dict alone."
                )
            if opcode.name == "STOP":
                break
            machine.run(opcode.name, argument)
    return machine.pop()


class _Machine:
    """The pickle machine's stack, its marks and its memo."""

    def __init__(
        self, where: str, allowed: Mapping[str, Any], persistent: Callable[[Any], Any]
    ) -> None:
        self.where = where
        self.allowed = allowed
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise WeightsError(
                f"{self.where}: its pickle uses {name}, which weights never need; "
                "save the state dict alone."
            )

    def pop(self) -> Any:
        if self.marks and self.marks[-1] >= len(self.stack):
            raise ValueError("a mark where an object should be")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def push_global(self, name: str) -> None:
        if name not in self.allowed:
            raise WeightsError(
                f"{self.where}: its pickle asks for {name}, which could run code; nothing of it "
                "was run. Weights need only tensors and dicts: where you trust its origin, load "
                "it there and save its state_dict() alone."
            )
        self.stack.append(self.allowed[name])


def _proceed(machine: _Machine, argument: Any) -> None:
    """PROTO and FRAME only describe the stream."""


def _mark(machine: _Machine, _: Any) -> None:
    machine.marks.append(len(machine.stack))


def _push(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(make())


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    def step(machine: _Machine, _: Any) -> None:
        items = [machine.pop() for _ in range(count)]
        machine.stack.append(tuple(reversed(items)))

    return step


def _tuple(machine: _Machine, _: Any) -> None:
    machine.stack.append(tuple(machine.pop_to_mark()))


def _list(machine: _Machine, _: Any) -> None:
    machine.stack.append(machine.pop_to_mark())


def _dict(machine: _Machine, _: Any) -> None:
    items = machine.pop_to_mark()
    machine.stack.append({})
    _set_items(machine, items)


def _append(machine: _Machine, _: Any) -> None:
    item = machine.pop()
    _target(machine, list).append(item)


def _appends(machine: _Machine, _: Any) -> None:
    items = machine.pop_to_mark()
    _target(machine, list).extend(items)


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    _set_items(machine, [key, value])


def _set_all(machine: _Machine, _: Any) -> None:
    _set_items(machine, machine.pop_to_mark())


def _set_items(machine: _Machine, items: list[Any]) -> None:
    target = _target(machine, dict)
    for key, value in zip(items[::2], items[1::2], strict=True):
        # A deeply nested tuple as a key would overflow the C stack when it is hashed.
        if not isinstance(key, _KEYS):
            raise TypeError(f"a dict key of type {type(key).__name__}")
        target[key] = value


def _target(machine: _Machine, kind: type) -> Any:
    if not isinstance(machine.stack[-1], kind):
        raise TypeError(f"{type(machine.stack[-1]).__name__} where a {kind.__name__} should be")
    return machine.stack[-1]


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _memoize(machine: _Machine, _: Any) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _get(machine: _Machine, index: int) -> None:
    machine.stack.append(machine.memo[index])


def _pop(machine: _Machine, _: Any) -> None:
    machine.pop()


def _global(machine: _Machine, argument: str) -> None:
    machine.push_global(argument.replace(" ", ".", 1))


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    machine.push_global(f"{module:s}.{name:s}")


def _reduce(machine: _Machine, _: Any) -> None:
    arguments, function = machine.pop(), machine.pop()
    if not isinstance(arguments, tuple) or not callable(function):
        raise TypeError(f"a call of {type(function).__name__}")
    machine.stack.append(function(*arguments))


def _build(machine: _Machine, _: Any) -> None:
    """State dicts carry only versions here (`_metadata`); they change no tensor."""
    machine.pop()
    _target(machine, dict)


def _persistent(machine: _Machine, _: Any) -> None:
    machine.stack.append(machine.persistent(machine.pop()))


# fmt: off
_LITERALS = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4",
    "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
})
# fmt: on

_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _proceed,
    "FRAME": _proceed,
    "MARK": _mark,
    "NONE": _push(lambda: None),
    "NEWTRUE": _push(lambda: True),
    "NEWFALSE": _push(lambda: False),
    "EMPTY_DICT": _push(dict),
    "EMPTY_LIST": _push(list),
    "EMPTY_TUPLE": _push(tuple),
    "EMPTY_SET": _push(list),
    "TUPLE": _tuple,
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "LIST": _list,
    "DICT": _dict,
    "APPEND": _append,
    "APPENDS": _appends,
    "ADDITEMS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_all,
    "PUT": _put,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": _memoize,
    "GET": _get,
    "BINGET": _get,
    "LONG_BINGET": _get,
    "POP": _pop,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "BUILD": _build,
    "BINPERSID": _persistent,
}
