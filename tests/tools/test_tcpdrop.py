# SPDX-License-Identifier: BSD-2-Clause
"""Packets that the kernel drops here show once each, as they were sent, with the reason."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tracewheel.runtime.host import drop_reasons
from tracewheel.runtime.host.errors import BpfError

from tests.conftest import TELLS_SOCKETS, Run
from tests.events import IN_GUEST, wait_until
from tests.tools.packets import (
    ACK,
    AUTH,
    CLOSED,
    DESTINATION,
    FRAGMENT,
    HOP,
    PSH,
    ROUTING,
    RST,
    V4,
    V6,
    Apart,
    Connection,
    Ends,
    flag_names,
    ipv4,
    ipv6,
    knock,
    send,
    tcp_header,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

PRIME = 23
BY_HAND = Ends(V4, 40_009, V4, 41_011)
BY_HAND_V6 = BY_HAND._replace(saddr=V6, daddr=V6)
TELLS_REASONS = bool(drop_reasons.names())
NO_SOCKET = "NO_SOCKET" if TELLS_REASONS else "-"
FRAGMENTS = [Ends(host, 0, host, 0) for host in (V4, V6)]  # they have no ports


class Seen(NamedTuple):
    """What a row tells of the packet itself."""

    ends: Ends
    flags: str


def seen(row: dict[str, Any]) -> Seen:
    """Return that of a row."""
    return Seen(Ends(row["saddr"], row["sport"], row["daddr"], row["dport"]), row["flags"])


def rows_from(tool: Run, ends: Ends) -> list[dict[str, Any]]:
    """Return the rows of packets between these ends, in this direction."""
    return [row for row in tool.json if seen(row).ends == ends]


def overflows() -> int:
    """Return how often the kernel says that an accept queue was full."""
    names, values = map(str.split, Path("/proc/net/netstat").read_text().splitlines()[:2])
    return int(values[names.index("ListenOverflows")])


class Story:
    """What happens while the tool traces, by each rung and with some filters."""

    def __init__(self, tools: dict[str, Run], child: Apart) -> None:
        self.by_rung = tools
        self.child = child
        self.filtered: dict[str, Run] = {}
        self.knocks: list[Ends] = []
        self.by_hand: list[Seen] = []
        self.connections = [Connection()]  # there before the tool traces
        self.queue = (V4, 0)
        self.overflows = (0, 0)  # at least, at most

    def trace(self, **options: list[str]) -> None:
        """Start the tool several times."""
        for name, some in options.items():
            self.filtered[name] = Run("tcpdrop", "--json", *some)

    def happen(self) -> None:
        """Let all of it happen."""
        for tool in (*self.by_rung.values(), *self.filtered.values()):
            tool.attached()
        self.knocks = [knock(V4) for _ in range(PRIME)] + [knock(V6) for _ in range(3)]
        self._send_by_hand()
        self._send_datagrams()
        self.connections.append(Connection())
        for each in self.connections:
            each.slip_in(ACK)
            each.slip_in(PSH | ACK)
            each.slip_in_broken()
        self.knock_apart = self.child.knock()
        self.lost = self.child.lose_the_route()
        with self._full_queue() as at_least:
            for tool in (*self.by_rung.values(), *self.filtered.values()):
                tool.end()
            self.overflows = (at_least, overflows() - self._overflows_before)
        for each in self.connections:
            each.close()

    def _send_by_hand(self) -> None:
        """Send packets to no socket, resets because these are not answered."""
        no_operation, router_alert = b"\x01", b"\x94\x04\0\0"
        for flags, options in (
            (RST, b""),
            (RST | ACK, no_operation * 4),
            (0x1FF, router_alert + no_operation * 36),
        ):
            send(ipv4(BY_HAND, tcp_header(BY_HAND, flags), options))
            self.by_hand.append(Seen(BY_HAND, flag_names(flags)))
        for extensions in (
            (),
            (HOP,),
            (HOP, DESTINATION),
            (HOP, DESTINATION, ROUTING, DESTINATION),
            (AUTH,),
        ):
            send(ipv6(tcp_header(BY_HAND_V6, RST), *extensions))
            self.by_hand.append(Seen(BY_HAND_V6, "RST"))
        send(ipv4(BY_HAND, tcp_header(BY_HAND, RST)[:12]))  # it ends before the flags
        self.by_hand.append(Seen(BY_HAND, "-"))
        # Of two that claim to be the last fragment, the second is dropped; some kernels drop the
        # first one as well. One of IPv6 ends beyond what a packet can have.
        send(ipv4(FRAGMENTS[0], bytes(24), offset=1480))
        send(ipv4(FRAGMENTS[0], bytes(24), offset=2960))
        send(ipv6(bytes(24), FRAGMENT))

    def _send_datagrams(self) -> None:
        for family, host in ((socket.AF_INET, V4), (socket.AF_INET6, V6)):
            with socket.socket(family, socket.SOCK_DGRAM) as udp:
                udp.bind((host, BY_HAND.sport))
                udp.sendto(bytes(40), (host, BY_HAND.dport))

    @contextlib.contextmanager
    def _full_queue(self) -> Iterator[int]:
        """Have more connections than an accept queue has room for; give how many were too many."""
        self._overflows_before = overflows()
        with socket.create_server((V4, 0), backlog=0) as server, contextlib.ExitStack() as clients:
            # They come into the queue, which has room for one, only when they have sent something.
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
            self.queue = server.getsockname()
            first, second = (
                clients.enter_context(socket.create_connection(self.queue)) for _ in range(2)
            )
            first.send(b"x")
            second.send(b"x")
            wait_until(lambda: overflows() > self._overflows_before)
            yield overflows() - self._overflows_before


@pytest.fixture(scope="module")
def story(rungs_of: Any) -> Iterator[Story]:
    """Give the story, after it has happened."""
    names = rungs_of("tcpdrop", "drop")
    assert "raw_tp" in names
    child = Apart()
    tools = {name: Run("tcpdrop", "--json", "--rung", f"drop={name}") for name in names}
    story = Story(tools, child)
    story.trace(
        mine=["--pid", str(os.getpid())],
        by_number=["--netns-id", str(child.netns)],
        by_process=["--pid-netns", str(child.pid), "--no-stack"],
    )
    with contextlib.ExitStack() as running:
        for tool in (*tools.values(), *story.filtered.values()):
            running.enter_context(tool)
        story.happen()
        yield story
    child.close()


def test_ports_that_are_closed(story: Story) -> None:
    """Each way shows each packet to a closed port once, in order, though it has no socket."""
    for name, tool in story.by_rung.items():
        rows = [row for row in tool.json if row["dport"] == CLOSED and row["flags"] == "SYN"]
        assert story.knocks == [
            ends for ends in (seen(row).ends for row in rows) if ends != story.knock_apart
        ], name
        assert {NO_SOCKET} == {row["reason"] for row in rows}
        assert {("-", None, "-")} == {(row["state"], row["pid"], row["comm"]) for row in rows}
        assert {4: PRIME + 1, 6: 3} == {ip: [row["ip"] for row in rows].count(ip) for ip in (4, 6)}
        assert {} == tool.losses


def test_headers(story: Story) -> None:
    """Ends and flags are those of the packet, behind all options and extensions; UDP is not TCP."""
    for name, tool in story.by_rung.items():
        rows = [row for row in tool.json if row["sport"] == BY_HAND.sport]
        assert story.by_hand == [seen(row) for row in rows], name


def test_fragments(story: Story) -> None:
    """A fragment without the header of TCP shows without ports and flags."""
    for name, tool in story.by_rung.items():
        rows = [seen(row) for row in tool.json if row["sport"] == 0]
        assert [Seen(ends, "-") for ends in FRAGMENTS] == [*dict.fromkeys(rows)], name
        assert len(rows) <= 3


def test_connections(story: Story) -> None:
    """What does not fit into a connection shows, with its socket if the kernel tells that."""
    whose = ("ESTABLISHED", os.getpid()) if TELLS_SOCKETS else ("-", None)
    for name, tool in story.by_rung.items():
        if not TELLS_REASONS and "not to tcp_drop" in tool.err:
            continue  # these kernels let only that function see it, and the tool says so
        for each in story.connections:
            rows = [row for row in rows_from(tool, each.ends) if row["reason"] != "TCP_CSUM"]
            assert ["ACK"] * 4 + ["PSH|ACK"] * 4 == [row["flags"] for row in rows], name
            if TELLS_REASONS:
                assert {whose} == {(row["state"], row["pid"]) for row in rows}


def test_owner(story: Story) -> None:
    """With -p only packets of the process's sockets show; what cannot be judged is counted."""
    tool = story.filtered["mine"]
    if TELLS_SOCKETS:
        rows = rows_from(tool, story.connections[0].ends)
        assert len(rows) >= 8
        assert {os.getpid()} == {row["pid"] for row in tool.json}
        assert {} == tool.losses
    else:
        assert [] == [row for row in tool.json if row["pid"] != os.getpid()]
        assert tool.summary["losses"]["unowned"] >= PRIME


def test_namespaces(story: Story) -> None:
    """A namespace is chosen by its number or by a process; what cannot be placed is counted."""
    own = os.stat("/proc/self/ns/net").st_ino
    for tool in story.by_rung.values():
        assert {own} == {row["netns"] for row in tool.json if seen(row).ends in story.knocks}
    # Fragments that some kernels have kept and then drop.
    unplaced = [row["netns"] for row in story.by_rung["raw_tp"].json].count(None)
    assert unplaced <= 2
    for name in ("by_number", "by_process"):
        tool = story.filtered[name]
        assert {story.child.netns} == {row["netns"] for row in tool.json}
        assert Seen(story.knock_apart, "SYN") in [seen(row) for row in tool.json]
        assert unplaced == tool.losses.get("unplaced", 0)


def test_packets_without_a_route(story: Story) -> None:
    """A packet that has no header of IP yet shows with the ends and the owner of its socket."""
    for name, tool in story.by_rung.items():
        rows = rows_from(tool, story.lost)
        assert {"PSH|ACK"} == {row["flags"] for row in rows}, name
        assert {"IP_OUTNOROUTES" if TELLS_REASONS else "-"} == {row["reason"] for row in rows}
        assert {("ESTABLISHED", story.child.pid)} == {(row["state"], row["pid"]) for row in rows}
        assert {story.child.netns} == {row["netns"] for row in rows}


def test_full_accept_queue(story: Story) -> None:
    """What finds no room in the queue of a listener shows as often as the kernel counts it."""
    at_least, at_most = story.overflows
    for name, tool in story.by_rung.items():
        rows = [
            row
            for row in tool.json
            if (row["daddr"], row["dport"], row["flags"]) == (*story.queue, "PSH|ACK")
        ]
        assert at_least <= len(rows) <= at_most, name
        if TELLS_SOCKETS:
            assert {os.getpid()} == {row["pid"] for row in rows}
            assert {row["state"] for row in rows} <= {"LISTEN", "NEW_SYN_RECV"}
        if "TCP_LISTEN_OVERFLOW" in drop_reasons.names().values():
            assert {"TCP_LISTEN_OVERFLOW"} == {row["reason"] for row in rows}


def test_numbers_of_reasons(story: Story) -> None:
    """JSON has the number of each reason as well, and stacks that begin in the kernel's code."""
    numbers = {name: number for number, name in drop_reasons.names().items()}
    for tool in story.by_rung.values():
        assert all(row["code"] == numbers.get(row["reason"]) for row in tool.json)
        (stack, *_) = (row["stack"] for row in tool.json if seen(row).ends == story.knocks[0])
        assert any(frame.startswith("tcp_v4_rcv+") for frame in stack)
        assert not any("bpf" in frame for frame in stack)
    assert not any("stack" in row for row in story.filtered["by_process"].json)


def test_filters_and_sums(trace: Any) -> None:
    """Addresses, ports and versions select, for either end; sums are those of the rows."""
    host, net = "127.9.9.9", "127.9.0.0/16"
    chosen = {
        ("-4",): [V4, host],
        ("-6",): [V6],
        ("-i", net): [host],
        ("-i", f"{V6}/128", "-i", host): [V6, host],
        ("-P", "8-10"): [V4, V6, host],
        ("-P", "10"): [],
        ("-P", "9", "-i", host): [host],
    }
    tools = {options: trace("tcpdrop", "--json", *options) for options in chosen}
    sums = [trace("tcpdrop", "--json", *options) for options in (["-c"], ["--by-flow"])]
    knocks = {each: knock(each) for each in (V4, V6, host)}

    for options, tool in tools.items():
        tool.end()
        found = [row["saddr"] for row in tool.json if seen(row).ends in knocks.values()]
        assert chosen[options] == found, options
    by_reason, by_flow = (each.end().json for each in sums)
    assert sum(row["drops"] for row in by_reason if row["reason"] == NO_SOCKET) >= len(knocks)
    assert len(by_reason) == len({row["reason"] for row in by_reason})
    for ends in knocks.values():
        (row,) = (row for row in by_flow if row["sport"] == ends.sport)
        assert (*ends, NO_SOCKET, 1) == tuple(
            row[name] for name in (*Ends._fields, "reason", "drops")
        )


def test_tables_and_pictures(trace: Any) -> None:
    """Stacks are below each row unless they are not wanted; a picture goes by reasons first."""
    common = ["-P", str(CLOSED), "-4"]
    options = [[], ["--no-stack"], ["--folded", "-"], ["--no-stack", "-s"]]
    tools = [trace("tcpdrop", *common, *each) for each in options]
    ends = knock(V4)
    with_stacks, without, folded, with_state = (tool.end().out.splitlines() for tool in tools)

    assert without == [line for line in with_stacks if not line.startswith(" ")]
    words = [line.split() for line in without]
    assert words[0] == ["TIME", "SADDR", "SPORT", "DADDR", "DPORT", "FLAGS", "REASON"]
    assert max(map(len, without)) <= 80
    expected = [V4, str(ends.sport), V4, str(CLOSED), "SYN", NO_SOCKET]
    assert expected in [row[1:] for row in words]
    expected.insert(4, "-")
    assert expected in [line.split()[1:] for line in with_state]
    assert any(line.startswith("    tcp_v4_rcv+") for line in with_stacks)
    assert any(re.match(f"{NO_SOCKET};.*;tcp_v4_rcv;", line) for line in folded)


def test_reasons(trace: Any, run: Any) -> None:
    """Reasons are chosen by name or number; where the kernel tells none, the tool says so."""
    if not TELLS_REASONS:
        with run("tcpdrop", "--reason", "NO_SOCKET") as tool:
            tool.ended()
        assert (4, 1) == (tool.code, tool.err.count("\n"))
        return
    numbers = {name: number for number, name in drop_reasons.names().items()}
    both = f"skb_drop_reason_no_socket,{numbers['TCP_CSUM']}"
    wanted = trace("tcpdrop", "--json", "--reason", both)
    unwanted = trace("tcpdrop", "--json", "--reason", both, "--no-reason", "no_socket")
    connection = Connection()
    ends = knock(V4)
    connection.slip_in_broken()
    for tool, reasons in ((wanted, {"NO_SOCKET", "TCP_CSUM"}), (unwanted, {"TCP_CSUM"})):
        tool.end()
        assert reasons == {row["reason"] for row in tool.json}
        assert ["TCP_CSUM"] == [row["reason"] for row in rows_from(tool, connection.ends)]
    assert ["NO_SOCKET"] == [row["reason"] for row in rows_from(wanted, ends)]
    connection.close()


KERNEL_TYPES = "/sys/kernel/btf/vmlinux"


@functools.cache
def dumped(path: str, *options: str) -> str:
    """Return the types of the kernel or of a module, as bpftool tells them."""
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    command = ["bpftool", *options, "btf", "dump", "file", path]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout


def values_of(enum: str, types: str) -> dict[str, str]:
    """Return the names of an enum by their values, without prefix; none if there is no enum."""
    found = re.search(rf"ENUM '{enum}' .*\n((?:\t.*\n)+)", types)
    values = re.findall(r"'(?:SKB_DROP_REASON_)?(\w+)' val=(\d+)", found[1]) if found else []
    return {value: name for name, value in values}


def listed_by(tool: Run) -> dict[str, str]:
    """Return the names of reasons by their numbers, as --list tells them."""
    return dict(line.split() for line in tool.out.splitlines())


def test_names_are_the_kernels(run: Any) -> None:
    """The listed reasons are those of the enum, as bpftool and the tracepoint tell them."""
    with run("tcpdrop", "--list") as tool:
        tool.ended()
    assert (0 if TELLS_REASONS else 4) == tool.code
    no_reasons = ("MAX", "SUBSYS_MASK", "SKB_CONSUMED", "SKB_NOT_DROPPED_YET", "CONSUMED")
    told = values_of("skb_drop_reason", dumped(KERNEL_TYPES))
    expected = {number: name for number, name in told.items() if name not in no_reasons}

    assert expected == {n: name for n, name in listed_by(tool).items() if int(n) < 1 << 16}
    assert bool(expected) == TELLS_REASONS
    format_ = Path("/sys/kernel/tracing/events/skb/kfree_skb/format")
    if format_.exists():
        symbols = dict(re.findall(r'\{ (\d+), "(\w+)" \}', format_.read_text()))
        assert expected == {n: name for n, name in symbols.items() if name not in no_reasons}


def test_reasons_without_a_name() -> None:
    """A number without a name is told with its subsystem, and one of no subsystem as it is."""
    assert "12345" == drop_reasons.name(12345)
    assert str(0xFFF0 << 16) == drop_reasons.name(0xFFF0 << 16)
    subsystems = values_of("skb_drop_reason_subsys", dumped(KERNEL_TYPES))
    numbers = [int(value) for value, name in subsystems.items() if name == "SUBSYS_OPENVSWITCH"]
    assert numbers or not TELLS_SOCKETS  # the subsystem is older
    for number in numbers:
        assert "OPENVSWITCH:60000" == drop_reasons.name(number << 16 | 60000)
    with pytest.raises(BpfError):
        drop_reasons.parse("NO_SOCKET,")


@pytest.fixture
def openvswitch() -> Iterator[dict[str, str]]:
    """Load that module, and give its drop reasons; unloaded after the test, as it may act."""
    types = "/sys/kernel/btf/openvswitch"
    was_there = Path("/sys/module/openvswitch").exists()
    subprocess.run(["modprobe", "-q", "openvswitch"], check=False)
    told = {}
    if os.path.exists(types):
        told = values_of("ovs_drop_reason", dumped(types, "--base-btf", KERNEL_TYPES))
    yield {number: name for number, name in told.items() if int(number) >> 16}
    if not was_there:
        subprocess.run(["modprobe", "-q", "-r", "openvswitch"], check=False)


def test_reasons_of_a_module(run: Any, openvswitch: dict[str, str]) -> None:
    """The reasons of a subsystem that is a module are known once it is loaded."""
    if not openvswitch:
        assert not (IN_GUEST and TELLS_SOCKETS)  # such kernels have it
        pytest.skip("needs the module openvswitch, with its drop reasons")
    with run("tcpdrop", "--list") as tool:
        tool.ended()

    assert "OVS_DROP_LAST_ACTION" in openvswitch.values()
    assert openvswitch.items() <= listed_by(tool).items()
