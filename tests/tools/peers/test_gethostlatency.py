# SPDX-License-Identifier: BSD-2-Clause
"""Beside gethostlatency of others ours shows the same lookups, and those that they miss."""

from __future__ import annotations

import ctypes
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.tools.peers.conftest import ME, script

SOURCE = Path(__file__).parents[1] / "lookups.c"
FIRST, LAST = "first.invalid", "last.invalid"
TIMES = 7


def look_up(host: str) -> None:
    """Look up a host that may be missing."""
    with suppress(socket.gaierror):
        socket.getaddrinfo(host, None)


def path_of_libc() -> str:
    """Return the file of the C library that this process has mapped."""
    mapped = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    return next(path for path in mapped if Path(path).name.startswith("libc.so"))


def test_gethostlatency(trace: Any, beside: Any, tmp_path: Path) -> None:
    """All show the same hosts, each once; only ours tells which lookups failed, and shows musl's.

    libbpf-tools and bcc do not trace gethostbyaddr(), of which bpftrace shows a number, nor the
    functions whose names end with _r. Of their own accord, libbpf-tools and bpftrace trace the
    library that they use themselves, which here is not that of other programs.
    """
    functions = ctypes.CDLL(None)
    libc = path_of_libc()
    musl = tmp_path / "musl"
    subprocess.run(["musl-gcc", "-o", musl, SOURCE], check=True)
    peers = beside(
        ("gethostlatency-libbpf", "-l", libc),
        ("gethostlatency-bpfcc",),
        script("gethostlatency.bt", "probe:libc:", f"probe:{libc}:"),
        shows=FIRST,
        act=lambda: look_up(FIRST),
    )
    # It waits for a line, so that its library is found when ours begins.
    waiting = subprocess.Popen(
        [str(musl), "getaddrinfo:localhost"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert waiting.stdout
    assert waiting.stdout.readline() == "ready\n"
    ours = trace("gethostlatency", "--json")
    told, _ = waiting.communicate("\n")
    for _ in range(TIMES):
        look_up("localhost")
        look_up("missing.invalid")
        functions.gethostbyname(b"localhost")
        functions.gethostbyname2(b"missing.invalid", socket.AF_INET)
    look_up(LAST)
    for each in peers:
        each.wait_for(LAST)
    ours.end()
    shown = [[row[4] for row in each.rows() if row[1:2] == [ME]] for each in peers]

    expected = ["localhost", "missing.invalid"] * 2 * TIMES + [LAST]
    mine = [row for row in ours.json if str(row["pid"]) == ME]
    for hosts in ([row["host"] for row in mine], *shown):
        assert expected == [host for host in hosts if host != FIRST]
    assert {"localhost"} == {row["host"] for row in mine if row["result"] == "OK"}
    assert told.startswith("getaddrinfo OK")
    assert [("musl", "OK")] == [
        (row["comm"], row["result"]) for row in ours.json if row["comm"] == "musl"
    ]
    assert not any("musl" in each.out for each in peers)
