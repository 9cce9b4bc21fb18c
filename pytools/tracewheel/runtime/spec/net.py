# SPDX-License-Identifier: BSD-2-Clause
"""Options that select connections by address and port, for tools that include net.bpf.h."""

from __future__ import annotations

from typing import Any

from tracewheel.runtime.host.errors import UsageError
from tracewheel.runtime.spec.arguments import parse_count
from tracewheel.runtime.spec.shapes import Option

_NETS_MOST = 16  # NETS_MOST of net.bpf.h
_NET_BYTES = 36  # struct net_wanted
_PORT_MOST = 65535
_IPV4_PREFIX = b"\0" * 10 + b"\xff\xff"
_IPV4_ADDRESSES = 1 << 32


def parse_ports(text: str) -> tuple[tuple[int, int], ...]:
    """Return the first and last port of each range in a list such as 80,8000-8999."""
    ranges = []
    for each in text.split(","):
        first, dash, last = each.partition("-")
        low = parse_count(first, 0, _PORT_MOST)
        ranges.append((low, parse_count(last, low, _PORT_MOST) if dash else low))
    return tuple(ranges)


def parse_net(text: str) -> bytes:
    """Return a network in CIDR notation, or a single address, as a struct net_wanted.

    Addresses of IPv4 are written as IPv6 writes them: ::ffff:10.0.0.1.
    """
    import ipaddress

    try:
        net = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise UsageError(
            f"expected a network such as 10.0.0.0/8 or 2001:db8::/32, not {text!r}"
        ) from None
    address = net.network_address.packed
    mask = net.netmask.packed
    if net.version == 4:
        address = _IPV4_PREFIX + address
        mask = b"\xff" * len(_IPV4_PREFIX) + mask
    is_ipv4 = address.startswith(_IPV4_PREFIX) and net.num_addresses <= _IPV4_ADDRESSES
    version = 4 if is_ipv4 else 6
    return address + mask + version.to_bytes(4, "little")


def _ports(given: tuple[tuple[tuple[int, int], ...], ...]) -> dict[str, Any]:
    """Return a bit for each port, set for those of the ranges."""
    bits = 0
    for ranges in given:
        for first, last in ranges:
            below_first = (1 << first) - 1
            up_to_last = (1 << last + 1) - 1
            bits |= up_to_last & ~below_first
    return {"net_ports_given": True, "net_ports": bits.to_bytes((_PORT_MOST + 1) // 8, "little")}


def _nets(given: tuple[bytes, ...]) -> dict[str, Any]:
    if len(given) > _NETS_MOST:
        raise UsageError(f"expected up to {_NETS_MOST} networks, not {len(given)}")
    nets = b"".join(given).ljust(_NETS_MOST * _NET_BYTES, b"\0")
    return {"net_count": len(given), "net_wanted": nets}


_VERSIONS = (
    Option(
        ("-4", "--ipv4"),
        "trace only IPv4, also over IPv6 sockets",
        sets="net_ipv4_only",
        excludes=("ipv6",),
    ),
    Option(("-6", "--ipv6"), "trace only IPv6", sets="net_ipv6_only"),
)
_PORT = Option(("-P", "--port"), "", parse_ports, "LIST", sets=_ports, repeat=True)


def peers(ports: str, network: str) -> tuple[Option, ...]:
    """Return the options that select connections.

    ``ports`` is what the help calls the ports of -P. ``network`` is the flag that selects by the
    remote address.
    """
    return (
        *_VERSIONS,
        _PORT._replace(
            help=f"trace only these {ports}, such as 80 or 443,8000-8999; may be repeated"
        ),
        Option(
            (network,),
            "trace only this remote network, such as 10.0.0.0/8; may be repeated",
            parse_net,
            "CIDR",
            sets=_nets,
            repeat=True,
        ),
    )


# For tools that tell of a connection from neither end: those of ends_filtered_out().
ENDS = (
    *_VERSIONS,
    _PORT._replace(
        help="trace only connections with one of these ports at either end, such as 80 or "
        "443,8000-8999; may be repeated"
    ),
    Option(
        ("-i", "--ip"),
        "trace only connections with this address or network at either end, such as 192.168.1.1 or "
        "10.0.0.0/8; may be repeated",
        parse_net,
        "CIDR",
        sets=_nets,
        repeat=True,
    ),
)
