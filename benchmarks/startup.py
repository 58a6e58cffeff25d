"""How long does it take to begin? Imports and `jtl --help`, each in processes of their own.

Run it with `python -m benchmarks.startup`.
"""

import subprocess
import sys
import time

from benchmarks import record

COMMANDS = {
    "python, nothing imported": "pass",
    "import jax, flax": "import jax, flax",
    "import jtl": "import jtl",
    "import jtl and all its public names": "from jtl import *",
    "jtl --help": "import sys; from jtl.cli import main; main(['--help'])",
}


def main() -> None:
    """Takes the commands in turn, prints the table and writes the JSON."""
    arguments = record.parser(__doc__).parse_args()
    rounds = 1 if arguments.smoke else 7
    samples: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(rounds + 1):
        for name, code in COMMANDS.items():
            seconds = _seconds(code)
            if turn or arguments.smoke:  # the first round warms the disk's cache
                samples[name].append(seconds)
    peer = record.spread(samples["import jax, flax"])["median"]
    rows = []
    print(f"{'':38} seconds, median of {rounds}   beside import jax, flax")
    for name, own in samples.items():
        figures = record.spread(own)
        rows.append({"name": name, "seconds": figures, "ratio": figures["median"] / peer})
        print(f"{name:38} {figures['median']:8.2f} {figures['median'] / peer:25.2f}")
    print(record.write(arguments.results, "startup", rows))


def _seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
