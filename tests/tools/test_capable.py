# SPDX-License-Identifier: BSD-2-Clause
"""Checks of capabilities that are made here show as they were made."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import re
import signal
import socket
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tracewheel.runtime.host import capabilities, syscalls
from tracewheel.runtime.show.meaning import name_of
from tracewheel.tools.capable import least_set

from tests.events import IN_GUEST

if TYPE_CHECKING:
    from collections.abc import Callable

NOBODY = 65534
ALLOWED, DENIED, READS, PROCESSES = 23, 19, 17, 5
PRISONERS = 53  # of whose checks a ring of 4 KiB cannot hold one each
FIRST_USER_NAMESPACE = 4026531837
CLONE_NEWUSER = 0x10000000
CHROOT, PTRACE, SETUID = "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SETUID"
# Others are checked by what Python does, too.
CHOSEN = ("--cap", "SYS_CHROOT", "--cap", "cap_sys_ptrace", "--cap", "setuid")


class Seen(NamedTuple):
    """What a row tells of a check."""

    syscall: str
    cap: str
    ret: int
    audit: int | None
    insetid: int | None


class Child:
    """A process that waits until it is told to act, and ends when it has acted."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self._order, order = os.pipe()[::-1]
        answer, self._answer = os.pipe()[::-1]
        self.pid = os.fork()
        if not self.pid:
            os.close(self._order)
            os.read(order, 1)
            try:
                os.write(answer, str(act()).encode())
            finally:
                os._exit(0)
        os.close(order)
        os.close(answer)

    def act(self) -> str:
        """Let it act; return what that has returned, as text."""
        os.write(self._order, b"!")
        answer = b""
        while more := os.read(self._answer, 4096):
            answer += more
        os.close(self._order)
        os.close(self._answer)
        os.waitpid(self.pid, 0)
        return answer.decode()


def change_root() -> None:
    """Make the root the root: the kernel checks CAP_SYS_CHROOT."""
    ctypes.CDLL(None).chroot(b"/")


def check() -> int:
    """Have capabilities checked in all ways; return the thread that was denied them."""
    parent = f"/proc/{os.getppid()}/stat"

    def be_denied() -> None:
        for _ in range(DENIED):
            change_root()
        # May this process look into that one? To ask so is not audited.
        fd = os.open(parent, os.O_RDONLY)
        for _ in range(READS):
            os.pread(fd, 4096, 0)

    for _ in range(ALLOWED):
        change_root()
    os.setresuid(NOBODY, NOBODY, NOBODY)
    thread = threading.Thread(target=be_denied)
    thread.start()
    thread.join()
    assert thread.native_id
    return thread.native_id


def expected_of(knows_audit: bool) -> list[Seen]:
    """Return what the rows of `check` tell, as far as it is known what is audited."""

    def seen(syscall: str, cap: str, ret: int, audit: int, insetid: int) -> Seen:
        return Seen(
            syscall, cap, ret, audit if knows_audit else None, insetid if knows_audit else None
        )

    return [
        *[seen("chroot", CHROOT, 0, 1, 0)] * ALLOWED,
        seen("setresuid", SETUID, 0, 1, 1),
        *[seen("chroot", CHROOT, -1, 1, 0)] * DENIED,
        *[seen("pread64", PTRACE, -1, 0, 0)] * READS,
    ]


def shown(tool: Any) -> list[Seen]:
    """Return what the rows tell."""
    return [Seen(*(row[name] for name in Seen._fields)) for row in tool.json]


def knows_audit(rung: str) -> bool:
    """Tell whether a way of tracing tells which checks are audited."""
    return rung in ("fexit", "kprobe")


def check_in_a_namespace() -> int:
    """Check a capability in a user namespace of its own; return the inode of that."""
    if ctypes.CDLL(None).unshare(CLONE_NEWUSER):
        return 0
    change_root()
    return os.stat("/proc/self/ns/user").st_ino


def assert_shown(expected: list[Seen], tool: Any) -> None:
    """Assert that rows tell what they should, less what the kernel may have skipped."""
    found = Counter(shown(tool))
    assert Counter(expected) == Counter(tool.completed(found, Counter(expected)))
    assert {} == tool.losses


def test_each_rung_shows_every_check(trace: Any, rungs_of: Any) -> None:
    """Every way of tracing shows each check once, with who made it and what it was for.

    By default those that are not audited are left out where that is known, and elsewhere equal
    ones, which are told.
    """
    for rung in rungs_of("capable", "check"):
        child = Child(check)
        forced = ("-p", str(child.pid), *CHOSEN, "--json", "--rung", f"check={rung}")
        every, default = (trace("capable", *forced, *more) for more in (("-v", "--unique=off"), ()))
        tid = int(child.act())
        every.ended()
        default.ended()

        checks = expected_of(knows_audit(rung))
        distinct = list(dict.fromkeys(checks))
        assert_shown(checks, every)
        ids = {(child.pid, child.pid, 0), (child.pid, tid, NOBODY)}
        # To change the user is allowed before it is changed.
        assert ids == {(row["pid"], row["tid"], row["uid"]) for row in every.json}
        assert {here() == FIRST_USER_NAMESPACE} == {row["ns_level"] == 0 for row in every.json}
        assert {here()} == {row["ns"] for row in every.json}
        assert_shown([seen for seen in checks if seen.audit] or distinct, default)
        repeats = 0 if knows_audit(rung) else len(checks) - len(distinct)
        assert [0, repeats] == [tool.summary["repeats"] for tool in (every, default)]


def here() -> int:
    """Return the inode of this process's user namespace."""
    return os.stat("/proc/self/ns/user").st_ino


def test_programs_are_told_apart(trace: Any, rungs_of: Any) -> None:
    """--unique shows a check again of another process, after an exec, and in another namespace."""

    def check_and_execute() -> None:
        for _ in range(ALLOWED):
            change_root()
        os.execv("/usr/sbin/chroot", ["chroot", "/", "/bin/true"])

    for rung in rungs_of("capable", "check"):
        children = [Child(check_and_execute) for _ in range(2)]
        below = Child(check_in_a_namespace)
        pids = ",".join(str(child.pid) for child in (*children, below))
        forced = ("-p", pids, "--cap", "sys_chroot", "--json", "--rung", f"check={rung}")
        tool = trace("capable", *forced, "--unique")
        for child in children:
            child.act()
        inode = int(below.act())
        if not inode:
            assert not IN_GUEST, "no user namespaces"
            pytest.skip("needs user namespaces")
        tool.ended()

        *rows, row = tool.json
        expected = [(child.pid, executed) for child in children for executed in (False, True)]
        assert expected == [(row["pid"], row["comm"] == "chroot") for row in rows]
        assert (below.pid, inode, 0) == (row["pid"], row["ns"], row["ret"])
        assert row["ns_level"] == 1 if here() == FIRST_USER_NAMESPACE else row["ns_level"] > 1
        assert 2 * (ALLOWED + 1) - 4 == tool.summary["repeats"]


def test_once_in_a_cgroup(trace: Any) -> None:
    """With --unique=cgroup, what another process of the cgroup does is a repeat."""
    children = [Child(change_root) for _ in range(PROCESSES)]
    pids = ",".join(str(child.pid) for child in children)
    tool = trace("capable", "-p", pids, "--cap", "18", "--unique=cgroup", "--json")
    for child in children:
        child.act()
    tool.ended()

    assert [children[0].pid] == [row["pid"] for row in tool.json]
    assert PROCESSES - 1 == tool.summary["repeats"]


class Prisoner:
    """A process that has a capability checked whenever it is asked to."""

    def __init__(self) -> None:
        self._mine, its = socket.socketpair()
        self.checks = 0
        self.pid = os.fork()
        if not self.pid:
            self._mine.close()
            while its.recv(1) == b"!":
                change_root()
                its.send(b"!")
            os._exit(0)
        its.close()

    def check(self) -> None:
        """Have it checked."""
        self._mine.send(b"!")
        assert self._mine.recv(1)
        self.checks += 1

    def end(self) -> None:
        """End the process."""
        self._mine.send(b".")
        self._mine.close()
        os.waitpid(self.pid, 0)


def test_what_is_lost_has_no_repeats(trace: Any, until: Any, tmp_path: Path) -> None:
    """If the first of equal checks finds no room, the next one that finds room is shown."""
    prisoners = [Prisoner() for _ in range(PRISONERS)]
    shown = tmp_path / "rows"
    pids = ",".join(str(each.pid) for each in prisoners)
    options = ("-p", pids, "--cap", "18", "--unique", "--buffer-size", "4K", "-o", str(shown))
    tool = trace("capable", *options, "--json")
    tool.process.send_signal(signal.SIGSTOP)
    for each in prisoners:
        for _ in range(3):
            each.check()
    tool.process.send_signal(signal.SIGCONT)

    def is_shown(prisoner: Prisoner) -> bool:
        prisoner.check()
        return f'"pid":{prisoner.pid},' in shown.read_text()

    for each in prisoners:
        until(functools.partial(is_shown, each))
    for each in prisoners:
        each.end()
    tool.end()

    tool.out = shown.read_text()
    assert sorted(each.pid for each in prisoners) == sorted(row["pid"] for row in tool.json)
    lost = tool.losses["checks"]
    assert lost
    assert sum(each.checks for each in prisoners) == PRISONERS + tool.summary["repeats"] + lost


def test_filters_and_columns(trace: Any) -> None:
    """--denied and --allowed choose by the verdict; -x shows the thread behind the process."""
    child = Child(check)
    options = ("-p", str(child.pid), "--cap", "SYS_CHROOT", "--unique=off")
    extra = trace("capable", *options, "-x", "--denied")
    allowed = trace("capable", *options, "--allowed")
    tid = child.act()
    extra.ended()
    allowed.ended()

    assert ["PID", "TID", "UID"] == extra.out.split()[:3]
    assert [[str(child.pid), tid, str(NOBODY)]] * DENIED == [row[:3] for row in extra.rows]
    assert {"0", "-"} >= {row[-2] for row in extra.rows}  # INSETID
    expected = ["18", CHROOT, "allowed", "chroot"]
    assert [expected] * ALLOWED == [row[-4:] for row in allowed.rows]


def test_stacks(trace: Any) -> None:
    """-K shows kernel stacks and -U user stacks; counted by stack, each check counts."""

    def check_twice() -> None:
        for _ in range(ALLOWED):
            change_root()

    child = Child(check_twice)
    options = ("-p", str(child.pid), "--cap", "SYS_CHROOT")
    kernel, user, both, folded = (
        trace("capable", *options, *more)
        for more in (
            ("-K", "--json", "--unique"),
            ("-U", "--json", "--unique"),
            ("-K", "-U", "--json", "--unique"),
            ("--folded", "-"),
        )
    )
    child.act()
    for tool in (kernel, user, both, folded):
        tool.ended()

    names = [{name for name in row if "stack" in name} for row in kernel.json]
    assert [{"stack"}] == names
    assert any("chroot" in frame for frame in kernel.json[0]["stack"])
    assert [{"user_stack"}] == [{name for name in row if "stack" in name} for row in user.json]
    assert user.json[0]["user_stack"]
    # More than one if the interpreter calls from several places.
    for tool in (kernel, user, both):
        assert ALLOWED == len(tool.json) + tool.summary["repeats"]
    assert {"stack", "user_stack"} < both.json[0].keys()
    assert ALLOWED == sum(int(line.split()[-1]) for line in folded.out.splitlines())


def test_summary(trace: Any) -> None:
    """--summary counts checks by capability, and tells the least set that allows the same."""
    child = Child(check)
    forced = ("-p", str(child.pid), *CHOSEN, "--summary", "-v")
    tool, text = trace("capable", *forced, "--json"), trace("capable", *forced)
    child.act()
    tool.ended()
    text.ended()

    *rows, digest = tool.json
    expected = {CHROOT: ALLOWED + DENIED, SETUID: 1, PTRACE: READS}
    found = {row["cap"]: row["allowed"] + row["denied"] for row in rows}
    assert expected == tool.completed(found, expected)
    assert {CHROOT, SETUID} == {row["cap"] for row in rows if row["allowed"]}
    assert {CHROOT, PTRACE} == {row["cap"] for row in rows if row["denied"]}
    assert {} == tool.losses
    (least,) = digest["least"]
    assert ([SETUID, CHROOT], [PTRACE]) == (least["capabilities"], least["denied"])
    assert ["CAP", "NAME", "ALLOWED", "DENIED"] == text.out.split()[:4]
    assert f"\nCapabilityBoundingSet={SETUID} {CHROOT}\n" in text.out
    assert '\n    drop: ["ALL"]\n    add: ["SETUID", "SYS_CHROOT"]\n' in text.out


class Row(NamedTuple):
    """A row as the library has it."""

    cap: str
    allowed: int
    denied: int
    container: str | None = None


def test_fragments() -> None:
    """The fragments grant what was allowed, and drop all else."""
    digest = least_set([Row("CAP_KILL", 3, 0), Row("CAP_BPF", 2, 1), Row("CAP_SYSLOG", 0, 5)])
    lines = digest.text.splitlines()
    (oci,) = [json.loads(line) for line in lines if line.startswith("{")]

    names = ["CAP_BPF", "CAP_KILL"]
    assert {"bounding": names, "effective": names, "permitted": names} == (
        oci["process"]["capabilities"]
    )
    assert "AmbientCapabilities=CAP_BPF CAP_KILL" in lines
    assert "# denied, so left out: CAP_SYSLOG" in lines
    (least,) = digest.json["least"]
    assert {"drop": ["ALL"], "add": ["BPF", "KILL"]} == (
        least["kubernetes"]["securityContext"]["capabilities"]
    )


def test_fragments_by_container() -> None:
    """Each container gets its own set; where nothing was used, that is none."""
    rows = [Row("CAP_KILL", 1, 0, "web"), Row("CAP_BPF", 1, 0, "db")]
    told = {each["container"]: each["capabilities"] for each in least_set(rows).json["least"]}

    assert {"web": ["CAP_KILL"], "db": ["CAP_BPF"]} == told
    assert "\nCapabilityBoundingSet=\n" in least_set([]).text


def test_names() -> None:
    """The names are those of the kernel's header, and this kernel has no others."""
    header = Path("/usr/include/linux/capability.h").read_text()
    defined = re.findall(r"^#define (CAP_[A-Z_]+)\s+(\d+)$", header, re.MULTILINE)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())

    assert len(defined) > 30
    assert {int(number): name for name, number in defined}.items() <= capabilities.names().items()
    assert last in capabilities.names()
    assert "63" == name_of("capability", 63)


@pytest.mark.parametrize("text", ["CAP_SYS_ADMIN", "sys_admin", "Cap_Sys_Admin", "21"])
def test_names_of_options(text: str) -> None:
    """A capability may be given with or without CAP_, in any case, or by its number."""
    assert 21 == capabilities.parse(text)


@pytest.mark.parametrize("arguments", [("--cap", "sys"), ("--cap", "64"), ("--unique=tid",)])
def test_wrong_arguments(run: Any, arguments: tuple[str, ...]) -> None:
    """What is no capability or no scope is refused in one line."""
    with run("capable", *arguments) as tool:
        tool.ended()

    assert 2 == tool.code
    assert 1 == tool.err.count("\n")


def test_no_system_call() -> None:
    """A check outside any system call shows a dash for it."""
    assert "-" == syscalls.name(0x7FFFFFFE)
