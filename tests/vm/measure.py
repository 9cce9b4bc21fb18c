# SPDX-License-Identifier: BSD-2-Clause
"""Measure the tools beside those of others under another kernel, such as one that has kprobes.

The CPU is emulated, and each of its instructions takes 1 ns: the figures depend neither on what
else the host does nor on its speed, and only ratios mean something.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from kernels import CACHE, SUITES
from machine import HERE, REPOSITORY
from matrix import WITH_PEERS, install_peers

TIMEOUT = 3 * 60 * 60


def main() -> int:
    """Parse the command line, and return the exit status of the bench."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        usage="./dev vm bench [--kernel K] [ARGUMENTS OF ./dev bench]",
        allow_abbrev=False,
    )
    parser.add_argument("--kernel", choices=SUITES, default=WITH_PEERS)
    options, arguments = parser.parse_known_args()
    results = REPOSITORY / "bench/results"
    results.mkdir(exist_ok=True)
    command = [
        *(sys.executable, "-B", str(HERE / "machine.py")),
        *("--kernel", options.kernel, "--timeout", str(TIMEOUT), "--share", str(results)),
        *("--icount", "--"),
        *("env", *install_peers(options.kernel), f"XDG_CACHE_HOME={CACHE.parent}"),
        *(".venv/bin/python", "-m", "bench", *arguments),
    ]
    return subprocess.run(command, cwd=REPOSITORY).returncode


if __name__ == "__main__":
    sys.exit(main())
