"""`jtl models`: what the catalogue knows, as one table or in all detail."""

from rich.console import Console
from rich.table import Table

from jtl.weights.cache import read_record
from jtl.weights.catalogue import Architecture, ReleasedWeights, catalogue, find_architectures
from jtl.weights.fetch import find_source
from jtl.weights.progress import megabytes

_NOT_KNOWN = "not known"
_WIDE = 120  # columns from which the table names weights; below, it counts them
_PIPED_WIDTH = 240  # columns: wide enough that no row of a file or a pipe is broken


def models(name: str | None = None) -> None:
    """List the networks and their released weights, or all about one of them.

    Example: `jtl models`, then `jtl models resnet50`.

    Args:
        name: the network to show; without it, a table of all.

    Raises:
        WeightsError: there is no network of that name.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    if name is None:
        console.print(_table(console.width >= _WIDE), soft_wrap=False)
        console.print("\nAll about one of them and its weights: jtl models NAME")
        return
    for network in find_architectures(name):
        console.print("\n".join(_describe(network)))


def _table(wide: bool) -> Table:
    table = Table(
        box=None, pad_edge=False, padding=(0, 2 if wide else 1, 0, 0), header_style="bold"
    )
    table.add_column("name", no_wrap=True)
    for column in ("params", "GMACs", "input", "features", "top-1 %"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("licence")
    table.add_column("weights", justify="left" if wide else "right", no_wrap=True)
    for network in catalogue():
        table.add_row(
            _title(network),
            f"{network.parameters / 1e6:.1f}M",
            f"{network.multiply_adds / 1e9:.2f}",
            str(network.input_size),
            str(network.feature_width),
            _accuracies(network.weights),
            ", ".join(dict.fromkeys(item.licence for item in network.weights)),
            _names(network.weights) if wide else str(len(network.weights)),
        )
    return table


def _describe(network: Architecture) -> list[str]:
    size = network.input_size
    rows = {
        "parameters": f"{network.parameters:,}",
        "multiply-adds": f"{network.multiply_adds:,} at {size} × {size} pixels",
        "features": str(network.feature_width),
        "stages": ", ".join(network.stages),
        "paper": network.paper or "none: jtl's own",
    }
    lines = [_title(network), *(f"  {key:<14}{value}" for key, value in rows.items())]
    lines += [line for item in network.weights for line in ("", *_describe_weights(item))]
    if network.weights:
        first = network.weights[0].name
        lines += [
            "",
            "  train with them:",
            f"  jtl train CONFIG --set model.name={network.name} --set model.weights={first}",
        ]
    return [*lines, ""]


def _describe_weights(item: ReleasedWeights) -> list[str]:
    top1 = _NOT_KNOWN
    if item.top1 is not None:
        top1 = f"{item.top1:g} % of ImageNet-1k at {item.top1_size} pixels ({item.top1_source})"
    rows = {
        "publisher": item.publisher,
        "address": item.url or "comes with jtl",
        "size": _size(item),
        "digest": _digest(item),
        "licence": f"{item.licence} ({item.licence_source})",
        "top-1": top1,
    }
    return [f"  {item.name}", *(f"    {key:<12}{value}" for key, value in rows.items())]


def _size(item: ReleasedWeights) -> str:
    if item.bytes is not None:
        return f"{megabytes(item.bytes)} ({item.bytes:,} bytes)"
    if item.mebibytes is not None:
        return f"{item.mebibytes:g} MiB, as its publisher rounds it"
    return _NOT_KNOWN


def _digest(item: ReleasedWeights) -> str:
    if item.digest:
        return f"{item.digest} ({item.digest_source})"
    if item.url is None:
        return "none: it comes inside the package"
    if record := read_record(find_source(item.name).path):
        return f"{_NOT_KNOWN}; SHA-256 {record.sha256} when first downloaded here"
    return f"{_NOT_KNOWN}; the first download records one"


def _title(network: Architecture) -> str:
    return network.name + (" (Keras)" if network.variant == "keras" else "")


def _accuracies(weights: tuple[ReleasedWeights, ...]) -> str:
    known = sorted(item.top1 for item in weights if item.top1 is not None)
    if not known:
        return _NOT_KNOWN
    return f"{known[0]:.1f}" + (f"–{known[-1]:.1f}" if len(known) > 1 else "")


def _names(weights: tuple[ReleasedWeights, ...]) -> str:
    more = f" +{len(weights) - 1}" if len(weights) > 1 else ""
    return weights[0].name + more if weights else _NOT_KNOWN
