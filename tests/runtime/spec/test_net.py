# SPDX-License-Identifier: BSD-2-Clause
"""The filters of peers that the kernel gets are those that were asked for."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracewheel.runtime.host.errors import UsageError
from tracewheel.runtime.spec.net import parse_net, parse_ports, peers

ADDRESSES = st.one_of(st.ip_addresses(), st.sampled_from(["127.0.0.1", "::1", "::", "0.0.0.0"]))


def holds(net: bytes, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Tell whether an address is in a network, in the way of net.bpf.h."""
    ipv4 = bytes(10) + b"\xff\xff" + address.packed
    packed = ipv4 if address.version == 4 else address.packed
    same = all((a ^ b) & mask == 0 for a, b, mask in zip(packed, net[:16], net[16:32]))
    return same and address.version == int.from_bytes(net[32:], "little")


@given(ADDRESSES, ADDRESSES, st.integers(0, 128))
def test_networks(base: object, other: object, length: int) -> None:
    """A network has the same addresses as for the module ipaddress."""
    address = ipaddress.ip_address(str(base))
    text = f"{address}/{min(length, address.max_prefixlen)}"
    net = ipaddress.ip_network(text, strict=False)
    for each in (address, ipaddress.ip_address(str(other)), net[0], net[-1]):
        mapped = getattr(each, "ipv4_mapped", None) or getattr(net[0], "ipv4_mapped", None)
        assert mapped or (each in net) == holds(parse_net(text), each)


def test_networks_of_mapped_addresses() -> None:
    """IPv4 in the notation of IPv6 is IPv4."""
    assert parse_net("127.0.0.0/8") == parse_net("::ffff:127.0.0.0/104")
    assert not holds(parse_net("::/0"), ipaddress.ip_address("127.0.0.1"))


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(sorted), min_size=1))
def test_ports(ranges: list[list[int]]) -> None:
    """The bits of a list are its ports."""
    text = ",".join(f"{a}-{b}" if a != b else f"{a}" for a, b in ranges)
    (option,) = [option for option in peers("ports", "--to") if "-P" in option.flags]
    assert callable(option.sets)
    bits = option.sets((parse_ports(text),))["net_ports"]

    expected = {port for a, b in ranges for port in range(a, b + 1)}
    assert expected == {port for port in range(65536) if bits[port // 8] >> port % 8 & 1}


@pytest.mark.parametrize("text", ["", "80,", "-", "9-8", "65536", "http", "1-2-3"])
def test_no_ports(text: str) -> None:
    """A text that is not a list of ports is refused."""
    with pytest.raises(UsageError, match="expected"):
        parse_ports(text)


@pytest.mark.parametrize("text", ["", "10.0.0.0/33", "10", "x", "::/129", "10.0.0.0/8/8"])
def test_no_network(text: str) -> None:
    """A text that is not a network is refused."""
    with pytest.raises(UsageError, match="expected"):
        parse_net(text)
