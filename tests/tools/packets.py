# SPDX-License-Identifier: BSD-2-Clause
"""Packets made by hand, and a network namespace in which to lose some."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from typing import NamedTuple

V4, V6 = "127.0.0.1", "::1"
CLOSED = 9  # nobody listens at this port
FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "AE")
FIN, SYN, RST, PSH, ACK = (1 << bit for bit in range(5))
# Kinds of headers between those of IPv6 and TCP.
HOP, ROUTING, FRAGMENT, AUTH, DESTINATION = 0, 43, 44, 51, 60
BODIES = {
    FRAGMENT: struct.pack("!xHI", 0xFFF8, 1),  # the last that there can be
    AUTH: b"\x04" + bytes(22),  # the length is in other units
}
PADDING = b"\0\x01\x04" + bytes(4)


class Ends(NamedTuple):
    """From where and to where a packet goes."""

    saddr: str
    sport: int
    daddr: str
    dport: int


def flag_names(flags: int) -> str:
    """Return the names of the bits of a TCP header."""
    return "|".join(name for bit, name in enumerate(FLAGS) if flags & 1 << bit) or "none"


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def tcp_header(ends: Ends, flags: int, sequence: int = 0) -> bytes:
    """Return a header of TCP, with the right checksum for IPv4."""
    words = [ends.sport, ends.dport, sequence, 0, 5 << 12 | flags, 1024, 0, 0]
    if ends.saddr != V6:
        addresses = socket.inet_aton(ends.saddr) + socket.inet_aton(ends.daddr)
        pseudo = addresses + struct.pack("!HH", socket.IPPROTO_TCP, 20)
        words[6] = _checksum(pseudo + struct.pack("!HHIIHHHH", *words))
    return struct.pack("!HHIIHHHH", *words)


def ipv4(ends: Ends, payload: bytes, options: bytes = b"", offset: int = 0) -> bytes:
    """Return a packet of IPv4, or its last fragment, from an offset on.

    The kernel fills in the checksum, and in a whole packet a number.
    """
    length = 20 + len(options)
    words = [4 << 4 | length // 4, 0, length + len(payload), offset and 7, offset // 8, 64, 6, 0]
    addresses = socket.inet_aton(ends.saddr) + socket.inet_aton(ends.daddr)
    return struct.pack("!BBHHHBBH", *words) + addresses + options + payload


def ipv6(payload: bytes, *extensions: int) -> bytes:
    """Return a packet of IPv6 from ::1 to itself, with extension headers of these kinds."""
    kinds = [*extensions, socket.IPPROTO_TCP]
    headers = b""
    for kind, following in zip(kinds, kinds[1:]):
        headers += bytes([following]) + BODIES.get(kind, PADDING)
    loopback = socket.inet_pton(socket.AF_INET6, V6)
    length = len(headers) + len(payload)
    return struct.pack("!IHBB", 6 << 28, length, kinds[0], 64) + loopback * 2 + headers + payload


def send(packet: bytes) -> None:
    """Send a packet as it is to the loopback device."""
    is_ipv4 = packet[0] >> 4 == 4
    family = socket.AF_INET if is_ipv4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(packet, (V4 if is_ipv4 else V6, 0))


def knock(host: str) -> Ends:
    """Try to connect to a port that is closed."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as client:
        client.bind((host, 0))
        assert client.connect_ex((host, CLOSED))
        return Ends(host, client.getsockname()[1], host, CLOSED)


class Connection:
    """A connection of this process with itself, into which packets can be slipped."""

    def __init__(self) -> None:
        with socket.create_server((V4, 0)) as server:
            self._client = socket.create_connection(server.getsockname())
            self._peer, _ = server.accept()
        self.ends = Ends(*self._client.getsockname(), *self._peer.getsockname())

    def slip_in(self, flags: int) -> None:
        """Send the accepted socket four packets that are far out of its window."""
        # Some are ahead of what it has received, others far behind: the numbers wrap around.
        for quarter in range(4):
            send(ipv4(self.ends, tcp_header(self.ends, flags, quarter << 30)))

    def slip_in_broken(self) -> None:
        """Send it a packet with a wrong checksum."""
        header = bytearray(tcp_header(self.ends, PSH | ACK))
        header[-4] ^= 1
        send(ipv4(self.ends, bytes(header)))

    def close(self) -> None:
        """Close both ends."""
        self._client.close()
        self._peer.close()


APART = """
import ctypes, fcntl, os, socket, struct, sys
ctypes.CDLL(None).unshare(0x40000000)
def set_loopback(request, *what):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any:
        fcntl.ioctl(any, request, struct.pack("16sHH4s8x", b"lo", *what))
def set_address(address):
    set_loopback(0x8916, socket.AF_INET, 0, socket.inet_aton(address))
def knock():
    with socket.socket() as client:
        client.bind(("127.0.0.1", 7777))  # which the kernel gives to nobody else by itself
        assert client.connect_ex(("127.0.0.1", 9))
        return client.getsockname()[1], 9
def lose_the_route():
    set_address("127.0.0.1")
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    set_address("0.0.0.0")
    client.send(b"lost")
    kept.append((server, client))
    return client.getsockname()[1], server.getsockname()[1]
kept = []
set_loopback(0x8914, 1, 0, bytes(4))
print(os.stat("/proc/self/ns/net").st_ino, flush=True)
for line in sys.stdin:
    print(*eval(line), flush=True)
"""


class Apart:
    """A process with a network namespace of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", APART], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        self.netns = int(self._answer()[0])

    def knock(self) -> Ends:
        """Try to connect to a port that is closed."""
        return self._order("knock()")

    def lose_the_route(self) -> Ends:
        """Send data in a connection whose route has gone; they are sent again and again."""
        return self._order("lose_the_route()")

    def close(self) -> None:
        """End it."""
        self._process.communicate("")

    def _order(self, what: str) -> Ends:
        assert self._process.stdin
        print(what, file=self._process.stdin, flush=True)
        sport, dport = map(int, self._answer())
        return Ends(V4, sport, V4, dport)

    def _answer(self) -> list[str]:
        assert self._process.stdout
        return self._process.stdout.readline().split()
