# SPDX-License-Identifier: BSD-2-Clause
"""Options that select peers by address and port, for tools that include net.bpf.h."""

from __future__ import annotations

from typing import Any

from tracewheel.runtime.host.errors import UsageError
from tracewheel.runtime.spec.arguments import parse_count
from tracewheel.runtime.spec.shapes import Option

_NETS_MOST = 16  # NETS_MOST of net.bpf.h
_NET_BYTES = 36  # struct net_wanted
_PORT_MOST = 65535


def parse_ports(text: str) -> tuple[tuple[int, int], ...]:
    """Return ranges of ports, such as 80,8000-8999, by their first and last."""
    ranges = []
    for each in text.split(","):
        first, dash, last = each.partition("-")
        low = parse_count(first, 0, _PORT_MOST)
        ranges.append((low, parse_count(last, low, _PORT_MOST) if dash else low))
    return tuple(ranges)


def parse_net(text: str) -> bytes:
    """Return a network in CIDR notation, or a single address, as a struct net_wanted."""
    import ipaddress

    try:
        net = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise UsageError(f"expected 10.0.0.0/8, 2001:db8::/32 or the like, not {text!r}") from None
    address, mask = net.network_address.packed, net.netmask.packed
    prefix = b"\0" * 10 + b"\xff\xff"
    if net.version == 4:
        address, mask = prefix + address, b"\xff" * 12 + mask
    is_ipv4 = address[:12] == prefix and net.num_addresses <= 1 << 32
    return address + mask + (4 if is_ipv4 else 6).to_bytes(4, "little")


def _ports(given: tuple[tuple[tuple[int, int], ...], ...]) -> dict[str, Any]:
    bits = 0
    for first, last in (each for ranges in given for each in ranges):
        bits |= (1 << last + 1) - (1 << first)
    return {"net_ports_given": True, "net_ports": bits.to_bytes((_PORT_MOST + 1) // 8, "little")}


def _nets(given: tuple[bytes, ...]) -> dict[str, Any]:
    if len(given) > _NETS_MOST:
        raise UsageError(f"expected up to {_NETS_MOST} networks, not {len(given)}")
    nets = b"".join(given).ljust(_NETS_MOST * _NET_BYTES, b"\0")
    return {"net_count": len(given), "net_wanted": nets}


PEERS = (
    Option(("-4", "--ipv4"), "trace only IPv4, also over IPv6 sockets", sets="net_ipv4_only"),
    Option(("-6", "--ipv6"), "trace only IPv6", sets="net_ipv6_only"),
    Option(
        ("-P", "--port"),
        "trace only these remote ports, such as 80 or 443,8000-8999; may be repeated",
        parse_ports,
        "LIST",
        sets=_ports,
        repeat=True,
    ),
    Option(
        ("--to",),
        "trace only this remote network, such as 10.0.0.0/8; may be repeated",
        parse_net,
        "CIDR",
        sets=_nets,
        repeat=True,
    ),
)
