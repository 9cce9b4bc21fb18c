# SPDX-License-Identifier: BSD-2-Clause
"""Run everything side by side, print one table, and write the results."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

from . import accuracy, measure, peers, table
from .measure import BCC, BPFTRACE, LIBBPF, OURS, ROOT
from .session import PROBE

EACH_RUN = {
    "start": measure.start,
    "storm": measure.storm,
    "floor": measure.floor,
    "pair": measure.pair,
    "syscount": measure.syscount,
    "kernel": measure.kernel,
    "event": measure.event,
    "biolatency": accuracy.biolatency,
    "biosnoop": accuracy.biosnoop,
    "runqlat": accuracy.runqlat,
    "offcputime": measure.offcputime,
    "connects": measure.connects,
    "loads": measure.loads,
    "tools": measure.tools,
    "shells": measure.shells,
}
ONCE = {"idle": measure.idle}


def main() -> int:
    """Return 1 if a target was missed or could not be measured."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    names = [*EACH_RUN, *ONCE]
    parser.add_argument("--runs", type=int, default=5, help="samples of each (default: 5)")
    parser.add_argument("--only", choices=names, nargs="+", default=names)
    parser.add_argument("--opens", type=int, default=1_000_000, help="of a storm")
    parser.add_argument("--idle-seconds", type=float, default=30, help="how long to watch it idle")
    loads = list(measure.LOADS)
    parser.add_argument("--load", choices=loads, nargs="+", default=loads, help="of --only loads")
    options = parser.parse_args()
    # A shell may have started this with ^C ignored, which the tools would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    installed = peers.install()
    measure.build_workload()
    binaries = Path(sys.executable).parent
    opensnoops = {
        OURS: peers.Command((str(binaries / "opensnoop"),)),
        LIBBPF: installed.command("sbin/opensnoop-libbpf"),
        BPFTRACE: installed.command("bin/bpftrace", str(installed.root / "usr/sbin/opensnoop.bt")),
        # bcc's own opensnoop needs kprobes or fentry.
        BCC: installed.bcc("trace-bpfcc", f't:syscalls:sys_enter_openat "{PROBE}%d-", args->dfd'),
    }
    if not (binaries / "opensnoop").exists():
        del opensnoops[OURS]
    bench = measure.Bench(
        installed, opensnoops, binaries, options.opens, options.idle_seconds, options.load
    )
    load = f"{os.getloadavg()[0]:.1f}"
    about = {"Linux": platform.release(), **installed.versions, "load": load, "runs": options.runs}
    failed = False
    for run in range(options.runs):
        for name, take in {**EACH_RUN, **(ONCE if run == 0 else {})}.items():
            makers = list(opensnoops) if name in options.only else []
            for maker in makers[run % 4 :] + makers[: run % 4]:
                print(f"run {run + 1}: {name}: {maker}", file=sys.stderr)
                try:
                    take(bench, maker)
                except (OSError, LookupError, ValueError, subprocess.SubprocessError) as error:
                    print(f"{name}: {maker}: {error}", file=sys.stderr)
                    failed |= maker == OURS

    shown = table.show(bench.samples)
    print(", ".join(f"{name} {value}" for name, value in about.items()), shown, sep="\n")
    table.write(bench.samples, about, ROOT / "bench/results")
    return int(failed or "NO" in shown)


if __name__ == "__main__":
    sys.exit(main())
