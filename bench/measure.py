# SPDX-License-Identifier: BSD-2-Clause
"""What is measured: each function takes one sample of one maker's opensnoop."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from tracewheel.runtime.trace.object import BpfObject

from .peers import Command, Peers
from .session import BUILD, Session, Usage

OURS, LIBBPF, BPFTRACE, BCC = "tracewheel", "libbpf-tools", "bpftrace", "bcc"
ROOT = Path(__file__).resolve().parents[1]
TOOLS = sorted(path.stem for path in (ROOT / "pytools/tracewheel/tools").glob("[a-z]*.py"))
CPUS = sorted(os.sched_getaffinity(0))
_HAS_KPROBES = Path("/sys/bus/event_source/devices/kprobe").exists()
_STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")


@dataclass(frozen=True)
class Bench:
    """What a run works with, and the samples it has taken: metric, maker, values."""

    peers: Peers
    opensnoops: Mapping[str, Command]  # or what shows opens, for bcc
    binaries: Path
    opens: int
    idle_seconds: float
    loads: Sequence[str]  # tools of LOADS
    samples: defaultdict[str, defaultdict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def note(self, maker: str, **values: float) -> None:
        """Add one sample to each named metric."""
        for metric, value in values.items():
            self.samples[metric][maker].append(value)

    def session(self, maker: str, *arguments: str, pipe: bool = False) -> Session:
        """Start the opensnoop of a maker."""
        command = self.opensnoops[maker]
        extended = Command((*command.argv, *arguments), command.environment)
        return Session(maker, extended, pipe=pipe)


def start(bench: Bench, maker: str) -> Usage:
    """Start, see one event, stop."""
    with bench.session(maker) as session:
        attached = session.prove() - session.started
        usage = session.stop()
    bench.note(maker, attach_ms=attached * 1e3, exit_ms=usage.exit_seconds * 1e3)
    return usage


def storm(bench: Bench, maker: str) -> None:
    """Load one CPU with opens, and with a call that nobody traces."""
    alone = _call("open", bench.opens, CPUS[-1:])
    idle = start(bench, maker)
    with bench.session(maker) as session:
        session.prove()
        untraced = _call("getppid", bench.opens * 5, CPUS[-1:])
        opened = _call("open", bench.opens, CPUS[-1:])
        session.prove()
        peak = session.peak_mb()
        usage = session.stop()
    shown = _count_rows(session, opened)
    bench.note(
        maker,
        shown_percent=shown / opened.count * 100,
        lost=usage.lost,
        untold=_untold(opened.count, shown, usage.lost),
        cpu_us=(usage.cpu_seconds - idle.cpu_seconds) * 1e6 / max(shown, 1),
        slower_percent=(opened.nanoseconds / alone.nanoseconds - 1) * 100,
        getppid_ns=untraced.nanoseconds / untraced.count,
        peak_mb=peak,
    )


def floor(bench: Bench, maker: str) -> None:
    """Load one CPU with a call that nobody traces, beside an empty program for all calls."""
    if maker != OURS:
        return
    with closing(BpfObject((BUILD / "empty.bpf.o").read_bytes())) as empty:
        _check(empty.load())
        _check(empty.attach(*empty.programs()))
        untraced = _call("getppid", bench.opens * 5, CPUS[-1:])
    bench.note(OURS, floor_ns=untraced.nanoseconds / untraced.count)


def _check(error: int) -> None:
    if error < 0:
        raise OSError(-error, os.strerror(-error))


def syscount(bench: Bench, maker: str) -> None:
    """Load one CPU with a call that is counted."""
    script = str(bench.peers.root / "usr/sbin/syscount.bt")
    command = {
        OURS: Command((str(bench.binaries / "syscount"),)),
        LIBBPF: bench.peers.command("sbin/syscount-libbpf"),
        BPFTRACE: bench.peers.command("bin/bpftrace", script),
        BCC: bench.peers.bcc("syscount-bpfcc"),
    }[maker]
    alone = _call("getppid", bench.opens * 5, CPUS[-1:])
    with Session("syscount", command) as session:
        # bcc's programs are on perf events, without links.
        session.wait_for_descriptor("prog_id" if maker == BCC else "link_id")
        counted = _call("getppid", bench.opens * 5, CPUS[-1:])
        session.stop()
    bench.note(maker, syscount_times=counted.nanoseconds / alone.nanoseconds)


def offcputime(bench: Bench, maker: str) -> None:
    """Let two processes do nothing but switch on one CPU."""
    commands = {
        OURS: Command((str(bench.binaries / "offcputime"), "--json")),
        LIBBPF: bench.peers.command("sbin/offcputime-libbpf"),
    }
    if maker not in commands:
        return
    alone = _call("switch", bench.opens, CPUS[-1:])
    others = _run_times(bench.peers)
    with Session("offcputime", commands[maker]) as session:
        session.wait_for_descriptor("link_id")
        with _statistics():
            before = _run_times(bench.peers)
            timed = _call("switch", bench.opens, CPUS[-1:])
            after = _run_times(bench.peers)
        traced = _call("switch", 4 * bench.opens, CPUS[-1:])
        usage = session.stop()
    own = before.keys() & after - others.keys()
    bench.note(
        maker,
        offcputime_extra_ns=traced.nanoseconds / traced.count - alone.nanoseconds / alone.count,
        offcputime_bpf_ns=sum(after[id] - before[id] for id in own) / timed.count,
        offcputime_report_ms=usage.exit_seconds * 1e3,
    )
    if maker == OURS:
        lines = [json.loads(line) for line in session.output.read_text().splitlines()]
        seen = sum(line["times"] for line in lines if line.get("comm") == "switching")
        missed = timed.count + traced.count - seen - lines[-1]["summary"]["lost"]
        bench.note(maker, offcputime_missed=max(0, missed))


def pair(bench: Bench, maker: str) -> None:
    """Load two CPUs with opens."""
    with bench.session(maker) as session:
        session.prove()
        opened = _call("open", bench.opens, (CPUS * 2)[:2])
        session.prove()
        lost = session.stop().lost
    untold = _untold(opened.count, _count_rows(session, opened), lost)
    bench.note(maker, pair_lost=lost, pair_untold=untold)


def kernel(bench: Bench, maker: str) -> None:
    """Let the kernel time the tool's programs during opens."""
    with _statistics():
        others = _run_times(bench.peers)
        with bench.session(maker) as session:
            session.prove()
            before = _run_times(bench.peers)
            opened = _call("open", bench.opens, CPUS[-1:])
            after = _run_times(bench.peers)
            session.stop()
    own = before.keys() & after - others.keys()
    bench.note(maker, bpf_ns=sum(after[id] - before[id] for id in own) / opened.count)


def idle(bench: Bench, maker: str) -> None:
    """Look at a tool that has nothing to show."""
    own = () if maker == BPFTRACE else ("-p", str(os.getpid()))
    with ExitStack() as files:
        session = files.enter_context(bench.session(maker, *own))
        session.prove()
        # Opened once, read twice: the second reading makes no event of its own.
        process = Path(f"/proc/{session.process.pid}")
        stat = files.enter_context((process / "stat").open())
        threads = [files.enter_context(path.open()) for path in process.glob("task/*/status")]
        session.show_one()
        time.sleep(1)  # A reader that was just busy may wake a few times more.
        before = _activity(stat, threads)
        time.sleep(bench.idle_seconds)
        after = _activity(stat, threads)
    percent = (after[0] - before[0]) / bench.idle_seconds * 100
    bench.note(maker, idle_percent=percent, wake_ups=after[1] - before[1])


def event(bench: Bench, maker: str) -> None:
    """Show one event at a time on a pipe."""
    with bench.session(maker, pipe=True) as session:
        session.prove()
        for _ in range(20):
            time.sleep(0.05)
            shown = session.show_one()
            bench.note(maker, event_ms=shown * 1e3)
            if shown == math.inf:
                break


def connects(bench: Bench, maker: str) -> None:
    """Open 20,000 short connections in a row; tcpconnect's peers need kprobes."""
    if maker != OURS:
        return
    alone = _call("connect", 20_000, CPUS[-1:])
    with Session("tcpconnect", Command((str(bench.binaries / "tcpconnect"),))) as session:
        session.wait_for("Tracing")
        opened = _call("connect", 20_000, CPUS[-1:])
        lost = session.stop().lost
    bench.note(
        maker,
        connects_lost=lost,
        connects_untold=_untold(opened.count, _count_rows(session, opened), lost),
        connects_slower_percent=(opened.nanoseconds / alone.nanoseconds - 1) * 100,
    )


@dataclass(frozen=True)
class Load:
    """What a tool is loaded with: a kind of storm, and how many times its event happens."""

    what: str
    count: int
    peers: Mapping[str, Callable[[Peers], Command]]
    need_kprobes: tuple[str, ...] = ()  # the makers whose tools cannot work without
    arguments: tuple[str, ...] = ()  # of ours


LOADS = {
    "statsnoop": Load(
        "stat", 1_000_000, {LIBBPF: lambda peers: peers.command("sbin/statsnoop-libbpf")}
    ),
    "tcpaccept": Load(
        "connect",
        20_000,
        {
            BPFTRACE: lambda peers: peers.script("tcpaccept.bt"),
            BCC: lambda peers: peers.bcc("tcpaccept-bpfcc"),
        },
        need_kprobes=(BPFTRACE, BCC),
    ),
    "killsnoop": Load(
        "kill",
        200_000,
        {
            LIBBPF: lambda peers: peers.command("sbin/sigsnoop-libbpf", "-k"),
            BPFTRACE: lambda peers: peers.script("killsnoop.bt"),
            BCC: lambda peers: peers.bcc("killsnoop-bpfcc"),
        },
        need_kprobes=(BCC,),
    ),
    "capable": Load(
        "capable",
        1_000_000,
        {
            LIBBPF: lambda peers: peers.command("sbin/capable-libbpf"),
            BPFTRACE: lambda peers: peers.script("capable.bt"),
            BCC: lambda peers: peers.bcc("capable-bpfcc"),
        },
        need_kprobes=(LIBBPF, BPFTRACE, BCC),
        arguments=("--unique",),  # its figure is that of equal checks, shown once
    ),
}


def loads(bench: Bench, maker: str) -> None:
    """Load one CPU with what some tools trace, without and beside each maker's tool."""
    for tool in bench.loads:
        if not _can_load(bench, maker, tool):
            continue
        load = LOADS[tool]
        made = Command((str(bench.binaries / tool), *load.arguments))
        command = made if maker == OURS else load.peers[maker](bench.peers)
        alone = _call(load.what, load.count, CPUS[-1:])
        with _started(tool, maker, command) as session:
            idle = session.stop()
        with _started(tool, maker, command) as session:
            loaded = _call(load.what, load.count, CPUS[-1:])
            usage = session.stop()
        shown = _count_rows(session, loaded)
        cpu_us = (usage.cpu_seconds - idle.cpu_seconds) * 1e6 / max(shown, 1)
        slower = loaded.nanoseconds / alone.nanoseconds - 1
        untold = _untold(loaded.count, shown, usage.lost + usage.repeats)
        figures = {
            "cpu_us": cpu_us,
            "slower_percent": slower * 100,
            "lost": usage.lost,
            "untold": untold,
        }
        bench.note(maker, **{f"{tool}_{name}": figure for name, figure in figures.items()})


def _can_load(bench: Bench, maker: str, tool: str) -> bool:
    if maker == OURS:
        return (bench.binaries / tool).exists()
    load = LOADS[tool]
    return maker in load.peers and (_HAS_KPROBES or maker not in load.need_kprobes)


@contextmanager
def _started(tool: str, maker: str, command: Command) -> Iterator[Session]:
    """Give a session of a tool that traces by now."""
    with Session(tool, command) as session:
        if maker == OURS:
            session.wait_for("Tracing")
        else:
            # bcc's programs are on perf events, without links.
            session.wait_for_descriptor("prog_id" if maker == BCC else "link_id")
        yield session


def tools(bench: Bench, maker: str) -> None:
    """Start each of our tools and stop it again."""
    for tool in TOOLS if maker == OURS else ():
        with Session("tool", Command((str(bench.binaries / tool),))) as session:
            session.wait_for("Tracing")
            attached = time.monotonic() - session.started
            peak = session.peak_mb()
            exit_ms = session.stop().exit_seconds * 1e3
        figures = {"attach_ms": attached * 1e3, "peak_mb": peak, "exit_ms": exit_ms}
        bench.note(maker, **{f"{tool}_{name}": figure for name, figure in figures.items()})


def shells(bench: Bench, maker: str) -> None:
    """Trace shells of five different files, and stop."""
    if maker != OURS:
        return
    with ExitStack() as running:
        for number in range(5):
            file = BUILD / f"shell{number}/bash"
            file.parent.mkdir(exist_ok=True)
            shutil.copy("/bin/bash", file)
            # It is there when it has said so, and ends with its input.
            shell = running.enter_context(
                subprocess.Popen(
                    [file, "-c", "echo; read"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            )
            assert shell.stdout
            shell.stdout.readline()
        ours = Command((str(bench.binaries / "bashreadline"),))
        with Session("bashreadline", ours) as session:
            session.wait_for("Tracing")
            bench.note(maker, shells_exit_ms=session.stop().exit_seconds * 1e3)
        bench.note(maker, shells_detach_ms=_detach_ms("bashreadline"))


def _detach_ms(tool: str) -> float:
    """Attach a tool in this process, and return how long the kernel takes to detach it."""
    from tracewheel.runtime.spec.catalogue import load_tool
    from tracewheel.runtime.spec.request import Request
    from tracewheel.runtime.trace.session import Session as Tracing

    with Tracing(tool, Request(load_tool(tool)[0], {})) as tracing:
        begin = time.monotonic()
        tracing.detach()
        return (time.monotonic() - begin) * 1e3


def build_workload() -> None:
    """Compile the storm, static so that it opens nothing else, and the empty program."""
    BUILD.mkdir(exist_ok=True)
    source = Path(__file__).with_name("storm.c")
    subprocess.run(["cc", "-O2", "-Wall", "-static", "-o", BUILD / "storm", source], check=True)
    empty = ("-o", BUILD / "empty.bpf.o", source.with_name("empty.bpf.c"))
    types = f"-I{ROOT}/vmlinux/{os.uname().machine}"
    subprocess.run(["clang", "-target", "bpf", "-O2", "-g", types, "-c", *empty], check=True)


@dataclass(frozen=True)
class _Calls:
    pids: tuple[int, ...]
    count: int
    nanoseconds: int


def _call(what: str, count: int, cpus: Sequence[int]) -> _Calls:
    argvs = [[str(BUILD / "storm"), what, str(count), str(cpu)] for cpu in cpus]
    running = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for argv in argvs]
    try:
        results = [process.communicate(timeout=300)[0].split() for process in running]
    finally:
        for process in running:
            process.kill()
    done, nanoseconds = zip(*(map(int, result) for result in results))
    return _Calls(tuple(process.pid for process in running), sum(done), max(nanoseconds))


def _count_rows(session: Session, calls: _Calls) -> int:
    pattern = rf"\b({'|'.join(map(str, calls.pids))})\b.*\bstorm\b"
    grep = ["grep", "-acE", pattern, str(session.output)]
    return int(subprocess.run(grep, env={"LC_ALL": "C"}, stdout=subprocess.PIPE).stdout)


def _untold(opened: int, shown: int, lost: int) -> int:
    # What is told as lost may include opens of others: then it may be more, never less.
    untold = opened - shown - lost
    return max(untold, 0) if lost else abs(untold)


def _activity(stat: TextIO, threads: Sequence[TextIO]) -> tuple[float, int]:
    for file in (stat, *threads):
        file.seek(0)
    user, system = stat.read().rsplit(")", 1)[1].split()[11:13]
    wake_ups = [re.findall(r"\nvoluntary_ctxt_switches:\s*(\d+)", file.read()) for file in threads]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK"), sum(int(n) for [n] in wake_ups)


@contextmanager
def _statistics() -> Iterator[None]:
    was = _STATISTICS.read_text()
    _STATISTICS.write_text("1")
    try:
        yield
    finally:
        _STATISTICS.write_text(was)


def _run_times(peers: Peers) -> dict[int, int]:
    argv = peers.command("sbin/bpftool", "prog", "show", "--json").argv
    shown = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)
    return {program["id"]: program.get("run_time_ns", 0) for program in shown}
