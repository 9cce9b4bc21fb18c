# SPDX-License-Identifier: BSD-2-Clause
"""The options that select a block device, of the tools that include request.bpf.h."""

from __future__ import annotations

from tracewheel.runtime.host.disks import Device, find_array, find_device
from tracewheel.runtime.spec.shapes import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DISK = Option(
    ("--disk",),
    "trace only this disk, partition, logical volume or array, given by its name or by a path in "
    "/dev",
    find_device,
    "NAME",
    sets=Device.variables,
)


def _disk_alone(device: Device) -> dict[str, Any]:
    return {"filter_disk": device.variables()["filter_disk"]}


# For tools that include disk.bpf.h alone.
WHOLE_DISK = DISK._replace(
    help="trace only this disk, given by its name or by a path in /dev; of a partition, its disk",
    sets=_disk_alone,
)

ARRAY = DISK._replace(
    help="trace only this array or partition of one, given by its name or by a path in /dev; an "
    "array with a name such as md0 need not exist yet",
    parse=find_array,
)


def device_options(
    *request_ladders: str, bio_ladders: tuple[str, ...] = ("bio_start", "bio_end")
) -> tuple[Option, ...]:
    """Return the options that select a device.

    The ladders named are those that trace requests. They are not climbed for a device that has no
    requests: ``bio_ladders`` trace it by its bios.
    """
    return (
        Option(
            ("-d",),
            "with a name, the same as --disk; without one, the same as --debug",
            find_device,
            "NAME",
            optional=True,
            switches_on="debug",
            passes_to="disk",
        ),
        DISK._replace(
            enables=bio_ladders,
            disables=request_ladders,
            only_if=lambda device: not device.has_requests,
        ),
    )
