# SPDX-License-Identifier: BSD-2-Clause
"""What users call a block device becomes what the kernel calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tracewheel.runtime.host.disks import Device, find_array, find_device
from tracewheel.runtime.host.errors import TargetGone, UsageError

BLOCKS = list(Path("/sys/class/block").iterdir())


def test_disks() -> None:
    """A disk goes by its name, and by its node."""
    for path in BLOCKS:
        if not (path / "partition").exists() and not path.name.startswith("nvme"):
            expected = Device(path.name.replace("!", "/"), (path / "mq").exists())
            assert expected == find_device(path.name)
            assert expected == find_device(f"/dev/{path.name}")


def test_partitions() -> None:
    """A partition is part of its disk."""
    for path in BLOCKS:
        if (path / "partition").exists():
            major, minor = map(int, (path / "dev").read_text().split(":"))
            found = find_device(path.name)

            assert path.resolve().parent.name == found.disk.replace("/", "!")
            assert major << 20 | minor == found.partition
            assert int((path / "size").read_text()) == found.sectors


def test_links(tmp_path: Path) -> None:
    """A link to a node means its device, and a link to anything else means none."""
    nodes = [path for path in Path("/dev").iterdir() if path.is_block_device()]
    for number, node in enumerate(nodes):
        link = tmp_path / f"link-{number}"
        link.symlink_to(node)

        assert find_device(node.name) == find_device(str(link))
    (tmp_path / "null").symlink_to("/dev/null")
    with pytest.raises(TargetGone, match="there is none"):
        find_device(str(tmp_path / "null"))


@pytest.mark.parametrize("name", ["", ".", "..", "/", "/dev", "/dev/", "\0", "x" * 5000, "\udcff"])
def test_no_disks(name: str) -> None:
    """What names no block device is not found, whatever it looks like."""
    with pytest.raises(TargetGone, match="there is none"):
        find_device(name)


def test_path_of_nvme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path to an NVMe disk means that disk, whose paths have the requests."""
    (tmp_path / "nvme0n2").mkdir()
    (tmp_path / "nvme0n2/size").write_text("8")
    monkeypatch.setattr("tracewheel.runtime.host.disks._CLASS", str(tmp_path))

    assert (
        Device("nvme0n2", has_requests=True) == find_device("nvme0n2") == find_device("nvme0c1n2")
    )


def test_arrays() -> None:
    """A device that is no array is refused; one that is not there may be an array by its name."""
    for path in BLOCKS:
        disk = path.resolve().parent if (path / "partition").exists() else path
        if not (disk / "md").exists():
            with pytest.raises(UsageError, match="no md array"):
                find_array(path.name)
    for name in ("md1048575", "md_no-such-array"):
        assert Device(name, has_requests=False) == find_array(name) == find_array(f"/dev/{name}")
    for name in ("no-such-disk", "mdnothing", "md1048575p1", "md_" + 30 * "x", "../md1"):
        with pytest.raises(TargetGone):
            find_array(name)
