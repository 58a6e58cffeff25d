"""From the operations that jax traces to nodes of an ONNX graph."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jtl.errors import ConfigError

Value = Any  # the name of a node's output, or a numpy array that is known already

_SAME = {
    "add": "Add",
    "add_any": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "exp": "Exp",
    "log": "Log",
    "neg": "Neg",
    "sqrt": "Sqrt",
    "tanh": "Tanh",
    "logistic": "Sigmoid",
    "stop_gradient": "Identity",
    "copy": "Identity",
    "copy_p": "Identity",
    "eq": "Equal",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "lt": "Less",
}
_INNER = ("jit", "pjit", "custom_jvp_call", "custom_vjp_call", "closed_call", "remat", "checkpoint")
_TO_CHANNELS_FIRST, _TO_CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


class Graph:
    """Nodes and constants, as they are added in the order of computation."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._count = 0

    def add(self, kind: str, inputs: Sequence[Value], output: str = "", **attributes: Any) -> str:
        """Adds a node; the name of its output."""
        from onnx import helper

        self._count += 1
        output = output or f"{kind.lower()}_{self._count}"
        names = [self.name_of(value) for value in inputs]
        self.nodes.append(helper.make_node(kind, names, [output], **attributes))
        return output

    def name_of(self, value: Value) -> str:
        """The name of a value, which becomes a constant of the graph if it is an array."""
        from onnx import numpy_helper

        if isinstance(value, str):
            return value
        self._count += 1
        name = f"constant_{self._count}"
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def translate(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
        """Adds what a jaxpr computes.

        Args:
            jaxpr: the operations.
            consts: the values of its constants.
            inputs: the values of its arguments.

        Raises:
            ConfigError: an operation has no translation.
        """
        known: dict[Any, Value] = dict(zip(jaxpr.constvars, map(np.asarray, consts)))
        known.update(zip(jaxpr.invars, inputs))

        def read(atom: Any) -> Value:
            return np.asarray(atom.val, atom.aval.dtype) if hasattr(atom, "val") else known[atom]

        for equation in jaxpr.eqns:
            values = [read(atom) for atom in equation.invars]
            outputs = self._equation(equation, values)
            known.update(zip(equation.outvars, outputs))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, values: list[Value]) -> list[Value]:
        name, params = equation.primitive.name, equation.params
        if name in _INNER:
            inner = params.get("jaxpr", params.get("call_jaxpr", params.get("fun_jaxpr")))
            jaxpr, consts = (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())
            return self.translate(jaxpr, consts, values)
        if not any(isinstance(value, str) for value in values) and _is_static(equation):
            done = equation.primitive.bind(*values, **params)
            return [
                np.asarray(x) for x in (done if equation.primitive.multiple_results else [done])
            ]
        if name in _SAME:
            return [self.add(_SAME[name], values)]
        if name not in _TRANSLATIONS:
            raise ConfigError(
                f"ONNX: the network computes {name!r}, which has no translation; export it as "
                "stablehlo."
            )
        return [_TRANSLATIONS[name](self, equation, values)]

    def reshape(self, value: Value, shape: Sequence[Any]) -> Value:
        """Another shape, in which the one length that is not a number is found by itself."""
        sizes = [size if isinstance(size, int) else -1 for size in shape]
        if isinstance(value, np.ndarray):
            return value.reshape(sizes)
        return self.add("Reshape", [value, np.array(sizes, np.int64)])


def _is_static(equation: Any) -> bool:
    return all(isinstance(n, int) for var in equation.outvars for n in var.aval.shape)


def _broadcast(graph: Graph, equation: Any, values: list[Value]) -> Value:
    # Lengths of 1 are enough: the operations that follow broadcast by themselves.
    params, operand = equation.params, equation.invars[0].aval
    shape: list[Any] = [1] * len(params["shape"])
    for place, size in zip(params["broadcast_dimensions"], operand.shape):
        shape[place] = size
    return graph.reshape(values[0], shape)


def _reshape(graph: Graph, equation: Any, values: list[Value]) -> Value:
    return graph.reshape(values[0], equation.outvars[0].aval.shape)


def _transpose(graph: Graph, equation: Any, values: list[Value]) -> Value:
    return graph.add("Transpose", values, perm=list(equation.params["permutation"]))


def _convert(graph: Graph, equation: Any, values: list[Value]) -> Value:
    from onnx import helper

    kind = np.dtype(equation.params["new_dtype"])
    if isinstance(values[0], np.ndarray):
        return values[0].astype(kind)
    return graph.add("Cast", values, to=helper.np_dtype_to_tensor_dtype(kind))


def _power(graph: Graph, equation: Any, values: list[Value]) -> Value:
    exponent = np.asarray(equation.params["y"], equation.outvars[0].aval.dtype)
    return graph.add("Pow", [values[0], exponent])


def _rsqrt(graph: Graph, _: Any, values: list[Value]) -> Value:
    return graph.add("Reciprocal", [graph.add("Sqrt", values)])


def _reduce_sum(graph: Graph, equation: Any, values: list[Value]) -> Value:
    axes = np.array(equation.params["axes"], np.int64)
    return graph.add("ReduceSum", [values[0], axes], keepdims=0)


def _reduce_max(graph: Graph, equation: Any, values: list[Value]) -> Value:
    return graph.add("ReduceMax", values[:1], axes=list(equation.params["axes"]), keepdims=0)


def _concatenate(graph: Graph, equation: Any, values: list[Value]) -> Value:
    return graph.add("Concat", values, axis=equation.params["dimension"])


def _reverse(graph: Graph, equation: Any, values: list[Value]) -> Value:
    value = values[0]
    for axis in equation.params["dimensions"]:
        order = np.arange(equation.invars[0].aval.shape[axis])[::-1].astype(np.int64)
        value = graph.add("Gather", [value, order], axis=axis)
    return value


def _pad(graph: Graph, equation: Any, values: list[Value]) -> Value:
    config = equation.params["padding_config"]
    if any(inner or low < 0 or high < 0 for low, high, inner in config):
        raise ConfigError("ONNX: padding between elements has no translation.")
    pads = [low for low, _, _ in config] + [high for _, high, _ in config]
    return graph.add("Pad", [values[0], np.array(pads, np.int64), values[1]])


def _slice(graph: Graph, equation: Any, values: list[Value]) -> Value:
    params, shape = equation.params, equation.invars[0].aval.shape
    axes = [axis for axis, size in enumerate(shape) if isinstance(size, int)]
    strides = params["strides"] or [1] * len(shape)
    bounds = [[own[a] for a in axes] for own in (params["start_indices"], params["limit_indices"])]
    numbers = [*bounds, axes, [strides[a] for a in axes]]
    return graph.add("Slice", [values[0], *(np.array(own, np.int64) for own in numbers)])


def _gather(graph: Graph, equation: Any, values: list[Value]) -> Value:
    """A grid of whole slices at known places: strided or reversed axes, as jnp takes them."""
    numbers, shape = equation.params["dimension_numbers"], equation.invars[0].aval.shape
    axes, places, sizes = numbers.collapsed_slice_dims, values[1], equation.params["slice_sizes"]
    simple = (
        isinstance(places, np.ndarray)
        and places.shape[-1] == places.ndim - 1 == len(axes)
        and numbers.start_index_map == axes
        and not numbers.operand_batching_dims
        and numbers.offset_dims == tuple(a for a in range(len(shape)) if a not in axes)
        and all(sizes[a] == (1 if a in axes else shape[a]) for a in range(len(shape)))
    )
    value = values[0]
    for number, axis in enumerate(axes if simple else ()):
        along = np.moveaxis(places[..., number], number, 0)
        along = along.reshape(along.shape[0], -1)
        simple = simple and bool((along == along[:, :1]).all())
        value = graph.add("Gather", [value, along[:, 0].astype(np.int64)], axis=axis)
    if not simple:
        raise ConfigError("ONNX: only whole slices at known places have a translation.")
    return value


def _dot(graph: Graph, equation: Any, values: list[Value]) -> Value:
    (left, right), (left_batch, right_batch) = equation.params["dimension_numbers"]
    ranks = [len(var.aval.shape) for var in equation.invars]
    if not left_batch and left == (ranks[0] - 1,) and right == (0,) and ranks[1] == 2:
        return graph.add("MatMul", values)
    a = [chr(ord("a") + axis) for axis in range(ranks[0])]
    b = [chr(ord("A") + axis) for axis in range(ranks[1])]
    for mine, other in zip((*left, *left_batch), (*right, *right_batch)):
        b[other] = a[mine]
    batch = [a[axis] for axis in left_batch]
    free = [x for x in a if x not in b] + [x for x in b if x not in a]
    return graph.add(
        "Einsum", values, equation=f"{''.join(a)},{''.join(b)}->{''.join(batch + free)}"
    )


def _convolution(graph: Graph, equation: Any, values: list[Value]) -> Value:
    params = equation.params
    numbers = params["dimension_numbers"]
    if (
        (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)
        != ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
        or params["batch_group_count"] != 1
        or set(params["lhs_dilation"]) != {1}
    ):
        raise ConfigError("ONNX: only plain convolutions of NHWC images have a translation.")
    kernel = values[1]
    if isinstance(kernel, str):
        kernel = graph.add("Transpose", [kernel], perm=[3, 2, 0, 1])
    else:
        kernel = kernel.transpose(3, 2, 0, 1)
    x = graph.add("Transpose", values[:1], perm=_TO_CHANNELS_FIRST)
    x = graph.add(
        "Conv",
        [x, kernel],
        strides=list(params["window_strides"]),
        pads=_pads(params["padding"]),
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
    )
    return graph.add("Transpose", [x], perm=_TO_CHANNELS_LAST)


def _pool(kind: str) -> Callable[[Graph, Any, list[Value]], Value]:
    def translate(graph: Graph, equation: Any, values: list[Value]) -> Value:
        params = equation.params
        window, strides = params["window_dimensions"], params["window_strides"]
        outer = (window[0], window[3], strides[0], strides[3], *params["padding"][0])
        dilated = {*params["base_dilation"], *params["window_dilation"]} != {1}
        if len(window) != 4 or outer != (1, 1, 1, 1, 0, 0) or dilated:
            raise ConfigError("ONNX: only pooling of NHWC images has a translation.")
        x = graph.add("Transpose", values[:1], perm=_TO_CHANNELS_FIRST)
        shape: dict[str, Any] = {
            "kernel_shape": list(window[1:3]),
            "strides": list(strides[1:3]),
            "pads": _pads(params["padding"][1:3]),
        }
        if kind == "AveragePool":
            x = graph.add(kind, [x], count_include_pad=1, **shape)
            # A mean over the whole window, padding included, times its size is the sum.
            size = np.asarray(window[1] * window[2], equation.outvars[0].aval.dtype)
            x = graph.add("Mul", [x, size])
        else:
            x = graph.add(kind, [x], **shape)
        return graph.add("Transpose", [x], perm=_TO_CHANNELS_LAST)

    return translate


def _pads(pairs: Sequence[tuple[int, int]]) -> list[int]:
    return [low for low, _ in pairs] + [high for _, high in pairs]


def _select(graph: Graph, equation: Any, values: list[Value]) -> Value:
    if len(values) != 3 or equation.invars[0].aval.dtype != np.bool_:
        raise ConfigError("ONNX: a choice among more than two has no translation.")
    return graph.add("Where", [values[0], values[2], values[1]])


_TRANSLATIONS: dict[str, Callable[[Graph, Any, list[Value]], Value]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _convert,
    "dot_general": _dot,
    "gather": _gather,
    "integer_pow": _power,
    "pad": _pad,
    "reduce_max": _reduce_max,
    "reduce_sum": _reduce_sum,
    "reduce_window_max": _pool("MaxPool"),
    "reduce_window_sum": _pool("AveragePool"),
    "reshape": _reshape,
    "rev": _reverse,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "slice": _slice,
    "squeeze": _reshape,
    "transpose": _transpose,
}
