# SPDX-License-Identifier: BSD-2-Clause
"""Block devices as users name them: disks, partitions, volumes, arrays, and links to them."""

from __future__ import annotations

import os
import stat

from tracewheel.runtime.host.errors import TargetGone, UsageError
from tracewheel.runtime.host.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CLASS = "/sys/class/block"
_NAME_BYTES = 32  # DISK_NAME_LEN of the kernel


class Device(Record):
    """A block device to trace: a disk, or one of its partitions."""

    disk: str  # as the kernel names it
    has_requests: bool
    partition: int = 0  # its number, major << 20 | minor; 0 for the whole disk
    first_sector: int = 0  # of the partition
    sectors: int = 0

    def variables(self) -> dict[str, Any]:
        """Return the global variables of request.bpf.h that select this device."""
        return {
            "filter_disk": os.fsencode(self.disk).ljust(_NAME_BYTES, b"\0"),
            "filter_partition": self.partition,
            "filter_first_sector": self.first_sector,
            "filter_sectors": self.sectors,
        }


def find_device(text: str) -> Device:
    """Return the block device that a name or a path in /dev means."""
    folder = _find(text)
    if not folder:
        raise TargetGone(f"cannot trace disk {text!r}: there is none")
    try:
        return _describe(folder)
    except FileNotFoundError:
        raise TargetGone(f"cannot trace disk {text!r}: it has been removed") from None


def find_array(text: str) -> Device:
    """Return the md array, or the partition of one, that a name or a path in /dev means.

    It need not exist yet if it has a name that the kernel gives to arrays. Raises UsageError for
    a device that is no array.
    """
    import re

    name = text.removeprefix("/dev/")
    if not _find(text) and re.fullmatch(r"md(\d+|_[^/]+)", name) and len(name) < _NAME_BYTES:
        return Device(name, has_requests=False)
    device = find_device(text)
    if not os.path.isdir(f"{_CLASS}/{device.disk.replace('/', '!')}/md"):
        raise UsageError(f"cannot trace flushes of {text!r}: it is no md array")
    return device


def _find(text: str) -> str:
    """Return the folder of sysfs that describes a device, or nothing if there is none."""
    name = text.removeprefix("/dev/")
    if text.startswith("/"):
        # A container may have neither the node nor the link.
        return _find_node(text) or _find_name(name) or _find_mapped(name.removeprefix("mapper/"))
    return (
        _find_name(name)
        or _find_mapped(name)
        or _find_node(f"/dev/{name}")
        or _find_node(f"/dev/md/{name}")
    )


def _find_node(path: str) -> str:
    """Find a device by its node in /dev, or by a link to that."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ""
    if not stat.S_ISBLK(found.st_mode):
        return ""
    folder = f"/sys/dev/block/{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    return folder if os.path.isdir(folder) else ""


def _find_name(name: str) -> str:
    """Find a device by the kernel's name for it. A path of NVMe means the disk that it leads to."""
    # Where a name has a slash, the name in sysfs has an exclamation mark.
    folder = f"{_CLASS}/{_without_nvme_path(name).replace('/', '!')}"
    return folder if os.path.exists(f"{folder}/size") else ""


def _find_mapped(name: str) -> str:
    """Find a device by the name that the device mapper has for it."""
    for entry in os.scandir(_CLASS):
        try:
            with open(f"{entry.path}/dm/name", errors="surrogateescape") as file:
                if file.read().removesuffix("\n") == name:
                    return entry.path
        except OSError:
            continue
    return ""


def _without_nvme_path(name: str) -> str:
    """Return nvme0n2 for nvme0c1n2, the path to it by controller 1, and other names as they are."""
    import re

    path = re.fullmatch(r"(nvme\d+)c\d+(n\d+)", name)
    return path[1] + path[2] if path else name


def _describe(folder: str) -> Device:
    """Return what sysfs says of a device."""
    real = os.path.realpath(folder)
    is_partition = os.path.exists(f"{real}/partition")
    disk_folder = os.path.dirname(real) if is_partition else real
    disk = os.path.basename(disk_folder).replace("!", "/")
    # Only queues of requests have hardware queues. Of an NVMe disk with several paths, its paths
    # have the requests; which partition a request is for, only the disk's bios tell.
    has_requests = os.path.isdir(f"{disk_folder}/mq")
    if not is_partition:
        return Device(disk, has_requests or disk.startswith("nvme"))
    major, minor = _read(f"{real}/dev").split(":")
    return Device(
        disk,
        has_requests,
        partition=int(major) << 20 | int(minor),
        first_sector=int(_read(f"{real}/start")),
        sectors=int(_read(f"{real}/size")),
    )


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
