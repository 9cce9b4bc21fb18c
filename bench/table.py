# SPDX-License-Identifier: BSD-2-Clause
"""The rows of the result, their targets, and how they are shown."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from .measure import BCC, BPFTRACE, LIBBPF, LOADS, OURS, TOOLS

Samples = Mapping[str, Mapping[str, Sequence[float]]]
_SCRIPTED = (BPFTRACE, BCC)
_PEERS = (LIBBPF, *_SCRIPTED)
MAKERS = (OURS, LIBBPF, BPFTRACE, BCC)
_LINE = "{:<47}" + "{:>13}" * 4 + "{:>9}" * 3 + "  {}"


@dataclass(frozen=True)
class Row:
    """A metric, and the most that it may be, itself or beside others."""

    title: str
    metric: str
    least: float | None = None
    aim: float | None = None
    against: tuple[str, ...] = ()
    beside: Callable[[float, float], float] = float.__truediv__
    pick: Callable[[Sequence[float]], float] = statistics.median


ROWS = (
    Row("storm: opens shown, %", "shown_percent"),
    Row("storm: opens lost, as told", "lost", 0, pick=max),
    Row("storm: opens neither shown nor told", "untold", 0, pick=max),
    Row("two storms: opens lost, as told", "pair_lost", aim=0, pick=max),
    Row("two storms: neither shown nor told", "pair_untold", 0, pick=max),
    Row("storm: the tool's CPU per open shown, us", "cpu_us", 1 / 10, 1 / 50, (LIBBPF,)),
    Row("storm: opener slowed by, %", "slower_percent", 1 / 2, 1 / 4, (LIBBPF,)),
    Row("storm: BPF per open, ns", "bpf_ns", 1 / 2, 1 / 4, (LIBBPF, BPFTRACE)),
    Row("storm: a getppid takes, ns", "getppid_ns", 1, None, (LIBBPF,)),
    Row("the same under an empty program at sys_exit", "floor_ns"),
    Row("syscount: a getppid takes so many times", "syscount_times", 1, None, (LIBBPF,)),
    Row("storm: peak memory, MB", "peak_mb", 40, 22),
    Row("start, behind libbpf-tools, ms", "attach_ms", None, 22, (LIBBPF,), beside=float.__sub__),
    Row("start to attached, ms", "attach_ms", 1 / 4, None, (BPFTRACE,)),
    Row("start to attached, ms", "attach_ms", 1 / 10, None, (BCC,)),
    Row("idle: CPU, %", "idle_percent", 0.1),
    Row("idle: wake-ups", "wake_ups", aim=0),
    Row("one event to its line on a pipe, ms", "event_ms", 50, 20),
    Row("Ctrl-C to exit, ms", "exit_ms", 500, 100),
    Row("biolatency: percentiles off by, %", "biolatency_off", 7, pick=max),
    Row("biolatency: events not counted", "biolatency_missed", aim=0, pick=max),
    Row("biosnoop: reads of a loop device, 1/s", "biosnoop_rate"),
    Row("biosnoop: requests lost, as told", "biosnoop_lost", aim=0, pick=max),
    Row("biosnoop: neither shown nor told", "biosnoop_untold", aim=0, pick=max),
    Row("runqlat: percentiles off by, %", "runqlat_off", 7, pick=max),
    Row("runqlat: events not counted", "runqlat_missed", aim=0, pick=max),
    Row("offcputime: a switch takes longer by, ns", "offcputime_extra_ns", 2 / 3, None, (LIBBPF,)),
    Row("offcputime: BPF per switch, ns", "offcputime_bpf_ns", 1, None, (LIBBPF,)),
    Row("offcputime: Ctrl-C to the report, ms", "offcputime_report_ms", 1000),
    Row("offcputime: switches neither counted nor told", "offcputime_missed", 0, pick=max),
    Row("tcpconnect: connects lost, as told", "connects_lost", 0, pick=max),
    Row("tcpconnect: neither shown nor told", "connects_untold", 0, pick=max),
    Row("tcpconnect: a connection slowed by, %", "connects_slower_percent"),
    Row("statsnoop: CPU per stat shown, us", "statsnoop_cpu_us", 1 / 10, None, (LIBBPF,)),
    Row("tcpaccept: a connection slowed by, %", "tcpaccept_slower_percent", 1 / 2, None, _SCRIPTED),
    Row("killsnoop: a signal slowed by, %", "killsnoop_slower_percent", 1, None, _PEERS),
    Row("capable: a check slowed by, %", "capable_slower_percent", 1, None, _PEERS),
    *(Row(f"{tool}: events lost, as told", f"{tool}_lost", 0, pick=max) for tool in LOADS),
    *(Row(f"{tool}: neither shown nor told", f"{tool}_untold", 0, pick=max) for tool in LOADS),
    *(Row(f"{tool}: start to attached, ms", f"{tool}_attach_ms", 150, 100) for tool in TOOLS),
    *(Row(f"{tool}: peak memory, MB", f"{tool}_peak_mb", 40, 35) for tool in TOOLS),
    *(Row(f"{tool}: Ctrl-C to exit, ms", f"{tool}_exit_ms", 500, 100) for tool in TOOLS),
    Row("bashreadline of five files: Ctrl-C to exit, ms", "shells_exit_ms", 500, 60),
    Row("the same: of that, the kernel's wait, ms", "shells_detach_ms"),
)


def show(samples: Samples) -> str:
    """Return the table of what was measured."""
    header = _LINE.format("", *MAKERS, "ratio", "at least", "aim", "ok?")
    return "\n".join([header, *(_show_row(row, samples.get(row.metric, {})) for row in ROWS)])


def _show_row(row: Row, values: Mapping[str, Sequence[float]]) -> str:
    picked = {maker: float(row.pick(values[maker])) for maker in values}
    others = [picked[maker] for maker in row.against if maker in picked]
    judged = picked.get(OURS)
    if row.against and judged is not None:
        judged = row.beside(judged, min(others)) if others else None
    ratio = _number(judged) if row.against else ""
    shown = [_number(picked.get(maker)) for maker in MAKERS]
    verdict = _verdict(row, judged)
    return _LINE.format(row.title, *shown, ratio, _number(row.least), _number(row.aim), verdict)


def _verdict(row: Row, value: float | None) -> str:
    if value is None:
        return "missing"
    if row.least is not None and value > row.least:
        return "NO"
    if row.aim is not None:
        return "aim" if value <= row.aim else "not the aim"
    return "yes" if row.least is not None else ""


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value == math.inf:
        return "never"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write(samples: Samples, about: Mapping[str, object], folder: Path) -> None:
    """Write all samples as JSON, and the medians of those with peers as bars."""
    folder.mkdir(exist_ok=True)
    finite = {  # JSON knows no infinity
        metric: {maker: [_finite(value) for value in taken] for maker, taken in values.items()}
        for metric, values in samples.items()
    }
    (folder / "bench.json").write_text(json.dumps({**about, "samples": finite}, indent=1))
    # By name, so that checking the types does not need it.
    pyplot = import_module("matplotlib.pyplot")
    titles = {row.metric: row.title for row in ROWS if row.against and row.metric in samples}
    figure, _ = pyplot.subplots(len(titles) or 1, figsize=(8, 1 + 1.4 * len(titles)))
    for (metric, title), axis in zip(titles.items(), figure.axes):
        values = {maker: samples[metric][maker] for maker in MAKERS if maker in samples[metric]}
        medians = [statistics.median(taken) for taken in values.values()]
        bars = axis.barh(list(values), medians)
        axis.bar_label(bars, [_number(median) for median in medians], padding=3)
        axis.set_title(title, loc="left")
        axis.margins(x=0.1)
        axis.invert_yaxis()
    figure.tight_layout()
    figure.savefig(folder / "bench.png")
