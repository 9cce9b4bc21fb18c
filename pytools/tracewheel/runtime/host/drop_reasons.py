# SPDX-License-Identifier: BSD-2-Clause
"""The reasons for which the running kernel drops packets.

Their numbers change from kernel to kernel. The upper half of a number tells the subsystem, since
Linux commit 071c0fc6fb91 ("net: extend drop reasons for multiple subsystems") (in v6.4); a
subsystem may be a module.
"""

from __future__ import annotations

import functools

from tracewheel.runtime.host.errors import NotSupported, UsageError

_PREFIXES = ("SKB_DROP_REASON_", "SKB_")
# Bounds of the enum, and what stands for a packet that is not dropped.
_NO_REASONS = ("SUBSYS_MASK", "MAX", "CONSUMED", "NOT_DROPPED_YET")
_SUBSYSTEMS = "SKB_DROP_REASON_SUBSYS_"
_NO_SUBSYSTEM = "SKB_DROP_REASON_SUBSYS_NUM"  # the bound of that enum
# Enums of subsystems, each with the module that may have it if the kernel itself does not.
_ENUMS = {"ovs_drop_reason": "openvswitch", "mac80211_drop_reason": "mac80211"}
_SUBSYSTEM_SHIFT = 16
_NUMBERS = 1 << 32


@functools.cache
def names() -> dict[int, str]:
    """Return the names of all reasons by their numbers; none if the kernel tells no reasons."""
    found: dict[int, str] = {}
    for enum, module in _ENUMS.items():
        values = _values_of(enum) or _values_of(enum, module)
        found.update((value, name) for name, value in values.items() if value >> _SUBSYSTEM_SHIFT)
    for name, value in _values_of("skb_drop_reason").items():
        found[value] = _without_prefix(name)
    return {value: name for value, name in found.items() if name not in _NO_REASONS}


def name(reason: int) -> str:
    """Return the name of a reason; if it has none, its number in its subsystem."""
    if reason in names():
        return names()[reason]
    number, subsystem = reason % (1 << _SUBSYSTEM_SHIFT), reason >> _SUBSYSTEM_SHIFT
    subsystems = {value: name for name, value in _values_of("skb_drop_reason_subsys").items()}
    known = subsystems.get(subsystem, _NO_SUBSYSTEM)
    if not subsystem or known == _NO_SUBSYSTEM:
        return str(reason)
    return f"{known.removeprefix(_SUBSYSTEMS)}:{number}"


def parse(text: str) -> tuple[int, ...]:
    """Return the numbers of reasons in a list of names or numbers, such as NO_SOCKET,TCP_RESET.

    Raises UsageError, or NotSupported if the kernel tells no reasons.
    """
    numbers = {name: number for number, name in _told_names().items()}
    return tuple(_parse_one(each, numbers) for each in text.split(","))


def listed() -> list[str]:
    """Return a line for each reason: its number and name. Raises NotSupported, too."""
    return [f"{number:>6} {name}" for number, name in sorted(_told_names().items())]


def _told_names() -> dict[int, str]:
    if not names():
        raise NotSupported("the kernel does not tell why it drops packets: use Linux 5.17 or newer")
    return names()


def _parse_one(text: str, numbers: dict[str, int]) -> int:
    reason = _without_prefix(text.upper())
    if reason in numbers:
        return numbers[reason]
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(_NUMBERS))
    if not is_number or int(text) >= _NUMBERS:
        raise UsageError(f"no drop reason {text!r} on this kernel: --list prints all of them")
    return int(text)


def _without_prefix(name: str) -> str:
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name


@functools.cache
def _values_of(enum: str, module: str = "") -> dict[str, int]:
    """Return the values of an enum of the kernel or of a module, none if there is no such enum."""
    from tracewheel.runtime.host.kernel_types import kernel_enum

    try:
        values = kernel_enum(enum, module)
    except NotSupported:
        return {}
    return {name: value % _NUMBERS for name, value in values.items()}
