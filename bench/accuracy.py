# SPDX-License-Identifier: BSD-2-Clause
"""Compare what tools tell of disks and waits with what was done, or with a list of the events."""

from __future__ import annotations

import json
import math
import mmap
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from .measure import CPUS, OURS, Bench
from .peers import Command
from .session import BUILD, Session

_READS = 100_000

# The list stays in a map until the end: waking its reader for each event delays the event.
_LIST_REQUESTS = """
config = {{ max_map_keys = 100000 }}
tracepoint:block:block_rq_issue /args.dev == {dev}/ {{ @begin[args.sector] = nsecs; }}
tracepoint:block:block_rq_complete /args.dev == {dev} && @begin[args.sector]/ {{
    @took[nsecs, cpu] = nsecs - @begin[args.sector];
    delete(@begin, args.sector);
}}"""

# 256 is the state of a preempted task.
_LIST_WAITS = """
config = {{ max_map_keys = 100000 }}
tracepoint:sched:sched_wakeup /args.pid == {pid} && !@begin/ {{ @begin = nsecs; }}
tracepoint:sched:sched_switch
/args.prev_pid == {pid} && (args.prev_state == 0 || args.prev_state == 256)/ {{ @begin = nsecs; }}
tracepoint:sched:sched_switch /args.next_pid == {pid} && @begin/ {{
    @took[nsecs, cpu] = nsecs - @begin;
    @begin = 0;
}}"""

_WORK_AND_REST = """
import random, time
input()
for _ in range(1500):
    end = time.thread_time() + random.uniform(0, 0.002)
    while time.thread_time() < end:
        pass
    time.sleep(random.uniform(0, 0.003))
print("done", flush=True)
input()
"""


def biolatency(bench: Bench, maker: str) -> None:
    """Read a loop device directly, in sizes that take longer than a probe."""
    if maker != OURS:
        return
    with _loop_device() as device:
        number = os.stat(device).st_rdev
        script = _LIST_REQUESTS.format(dev=os.major(number) << 20 | os.minor(number))
        with _compared(bench, "biolatency", script, "--disk", Path(device).name):
            reader = os.open(device, os.O_RDONLY | os.O_DIRECT)
            buffer = memoryview(mmap.mmap(-1, 1 << 20))
            for _ in range(3000):
                size = 65536 << random.randrange(5)
                os.preadv(reader, [buffer[:size]], 4096 * random.randrange(8192))
            os.close(reader)


def biosnoop(bench: Bench, maker: str) -> None:
    """Read a loop device directly, as fast as two threads can."""
    if maker != OURS:
        return

    def read(device: str) -> None:
        reader = os.open(device, os.O_RDONLY | os.O_DIRECT)
        with mmap.mmap(-1, 4096) as buffer:
            for block in range(_READS):
                os.preadv(reader, [buffer], block % 8192 * 4096)
        os.close(reader)

    with _loop_device() as device:
        # A merge would make one request of two reads.
        Path("/sys/block", Path(device).name, "queue/nomerges").write_text("2")
        ours = Command((str(bench.binaries / "biosnoop"), "--disk", device, "--json"))
        with Session("biosnoop", ours) as session:
            session.wait_for("Tracing")
            begin = time.monotonic()
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(read, [device] * 2))
            rate = 2 * _READS / (time.monotonic() - begin)
            lost = session.stop().lost
    rows = session.output.read_bytes().count(b"\n") - 1
    untold = 2 * _READS - rows - lost
    bench.note(OURS, biosnoop_rate=rate, biosnoop_lost=lost, biosnoop_untold=untold)


def runqlat(bench: Bench, maker: str) -> None:
    """Let a process wait for a CPU that three others keep busy."""
    if maker != OURS:
        return
    pin = ["taskset", "--cpu-list", str(CPUS[-1])]
    hog = [*pin, str(BUILD / "storm"), "getppid", str(10**12), str(CPUS[-1])]
    work = [*pin, sys.executable, "-c", _WORK_AND_REST]
    waiting = subprocess.Popen(work, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    hogs = [subprocess.Popen(hog) for _ in range(3)]
    try:
        script = _LIST_WAITS.format(pid=waiting.pid)
        with _compared(bench, "runqlat", script, "-p", str(waiting.pid)):
            assert waiting.stdin and waiting.stdout
            waiting.stdin.write(b"\n")
            waiting.stdout.readline()  # Not its end, with which runqlat would end, too.
    finally:
        for process in (waiting, *hogs):
            process.kill()
            process.wait()


def read_percentiles(output: str) -> tuple[int, dict[str, float]]:
    """Return the number of events and the percentiles in ns, from one histogram's JSON."""
    for line in output.splitlines():
        found = json.loads(line)
        if "percentiles" in found:
            scale = {"usecs": 1e3, "msecs": 1e6}[found["unit"]]
            percentiles = {name: value * scale for name, value in found["percentiles"].items()}
            return found["count"], percentiles
    raise ValueError(f"no histogram in {output[-300:]!r}")


@contextmanager
def _compared(bench: Bench, tool: str, script: str, *arguments: str) -> Iterator[None]:
    recorder = bench.peers.command("bin/bpftrace", "-e", script)
    ours = Command((str(bench.binaries / tool), "--json", *arguments))
    with Session("list", recorder) as listed, Session(tool, ours) as shown:
        listed.wait_for("Attached")
        shown.wait_for("Tracing")
        yield
        shown.stop()
        if lost := listed.stop().lost:
            raise ValueError(f"the list of {tool} lost {lost} events")
    took = sorted(map(int, re.findall(r"@took\[.*\]: (\d+)", listed.output.read_text())))
    count, percentiles = read_percentiles(shown.output.read_text())
    exact = {percent: took[math.ceil(len(took) * percent / 100) - 1] for percent in (50, 90, 99)}
    off = max(abs(percentiles[f"p{percent}"] / ns - 1) for percent, ns in exact.items())
    bench.note(OURS, **{f"{tool}_off": off * 100, f"{tool}_missed": len(took) - count})


@contextmanager
def _loop_device() -> Iterator[str]:
    image = BUILD / "disk"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    attach = ["losetup", "--find", "--show", str(image)]
    device = subprocess.run(attach, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
