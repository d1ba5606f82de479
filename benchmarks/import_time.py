"""What importing the core costs, beside what importing the bare client costs, measured in one run.

    python benchmarks/import_time.py

Fresh interpreters take turns, so that both meet the same machine; the median counts, less that of an empty program.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 15
PROGRAMS = {
    "nothing": "pass",
    "import XenAPI": "import XenAPI",
    "import xenvol": "import xenvol",
    "import xenvol.volumeops": "import xenvol.volumeops",
    "and the first driver": "import xenvol.volumeops, xenvol.drivers.registry as r; r.get_driver_class('iscsi')",
}
"""What each does, and the program."""


def seconds(program: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - started


def main() -> None:
    taken: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for program in PROGRAMS.values():
        seconds(program)  # compiles what is not compiled yet
    for _ in range(ROUNDS):
        for name, program in PROGRAMS.items():
            taken[name].append(seconds(program))
    median = {name: statistics.median(times) for name, times in taken.items()}
    client = median["import XenAPI"] - median["nothing"]
    print(f"{'':26}{'ms':>8}{'times XenAPI':>14}")
    for name in list(PROGRAMS)[1:]:
        cost = median[name] - median["nothing"]
        print(f"{name:26}{cost * 1000:8.1f}{cost / client:14.2f}")


if __name__ == "__main__":
    main()
