# SPDX-License-Identifier: BSD-2-Clause
"""Every block device can be traced by its user's name for it, whatever it is made of."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tracewheel.runtime.host.disks import find_device

from tests.arrays import load_module, start_array, stop_array
from tests.tools.conftest import Disk, Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.tools.conftest import ScsiDisk

READS, WRITES, OTHERS = 23, 17, 13
SECTORS = 8192  # of a volume or partition: half of a loop device
KINDS = ("tp_btf", "raw_tp")


@pytest.fixture
def volume(disk: Disk, new_volume: Callable[[str, str], Volume]) -> Volume:
    """Give a volume that is the second half of a loop device."""
    return new_volume("vg-data", f"0 {SECTORS} linear {disk.path} {SECTORS}")


class Array(Disk):
    """A RAID 0 of two disks: it passes on the bios that it gets."""

    def __init__(self, disks: list[Disk]) -> None:
        super().__init__("/dev/" + start_array("raid0", [disk.name for disk in disks]))

    def stop(self) -> None:
        """Take the array apart."""
        stop_array(self.name)


@pytest.fixture
def array(new_disk: Callable[[], Disk], until: Callable[[Any], None]) -> Iterator[Array]:
    """Give an array of two loop devices."""
    load_module("md-mod")
    load_module("raid0")
    array = Array([new_disk(), new_disk()])
    until(Path(array.path).exists)
    array.read(1)  # whoever opens it first has the kernel look for partitions
    yield array
    array.stop()


@pytest.fixture
def ram_disk() -> Iterator[Disk]:
    """Give a disk in memory that answers bios at once."""
    if os.geteuid():
        pytest.skip("needs root")
    load_module("brd")
    yield Disk("/dev/ram0")
    subprocess.run(["modprobe", "-r", "brd"], check=True)


@pytest.fixture(params=["volume", "array", "ram_disk"])
def device(request: pytest.FixtureRequest) -> Disk:
    """Give each kind of device that has no requests."""
    found: Disk = request.getfixturevalue(request.param)
    assert not (found.settings / "mq").exists()
    return found


@pytest.fixture
def partitions(new_disk: Callable[..., Disk], until: Callable[[Any], None]) -> list[Disk]:
    """Give the partitions of a loop device: nearly all of its first half, and its second."""
    disk = new_disk("--partscan")  # only so the kernel lets it have partitions
    paths = [f"{disk.path}p{number}" for number in (1, 2)]
    for number, begin in ((1, 8), (2, SECTORS)):
        where = [str(number), str(begin), str(SECTORS - begin % SECTORS)]
        subprocess.run(["addpart", disk.path, *where], check=True)
    until(lambda: all(map(os.path.exists, paths)))
    return [Disk(path) for path in paths]


@contextlib.contextmanager
def link_in_dev(folder: str, name: str, disk: Disk) -> Iterator[None]:
    """Let /dev have a folder with a link to a disk, as udev makes them."""
    path = Path("/dev", folder)
    path.mkdir()
    try:
        (path / name).symlink_to(f"../{disk.name}")
        yield
    finally:
        (path / name).unlink(missing_ok=True)
        path.rmdir()


def shown(tool: Any, *names: str) -> list[Any]:
    """Return these members of each row."""
    return [tuple(row[name] for name in names) for row in tool.json]


def forced(kind: str) -> list[str]:
    """Return options that force a rung for the bios."""
    return [f"--rung=bio_start={kind}", f"--rung=bio_end={kind}"]


@pytest.mark.parametrize("kind", KINDS)
def test_bios_show(trace: Any, device: Disk, kind: str) -> None:
    """What is read and written shows once each, in order, as requests do, but is never issued."""
    tool = trace("biosnoop", "-d", device.name, "--json", *forced(kind))
    took = device.read(READS) + device.write(WRITES)
    tool.end()

    places = [(8 * at, device.BLOCK) for at in range(READS)]
    expected = [("READ", *place) for place in places]
    expected += [("WRITE", *place) for place in places[:WRITES]]
    assert expected == shown(tool, "operation", "sector", "bytes")
    names = ("disk", "pid", "error", "tries", "queued")
    assert {(device.name, os.getpid(), 0, 0, None)} == set(shown(tool, *names))
    assert 0 < sum(row["latency"] for row in tool.json) <= took * 1000
    assert {} == tool.losses


@pytest.mark.parametrize("kind", KINDS)
def test_bios_are_counted(trace: Any, device: Disk, kind: str) -> None:
    """Each counts once, and none takes longer than its caller waits."""
    options = ["-d", device.name, "-D", "-F", "-e", "--json"]
    tool = trace("biolatency", *options, *forced(kind))
    took = device.read(READS) + device.write(WRITES)
    tool.end()

    expected = [(device.name, "READ", READS), (device.name, "WRITE", WRITES)]
    assert expected == shown(tool, "disk", "operation", "count")
    assert 0 < sum(each["sum"] for each in tool.json) <= took
    assert {} == tool.losses


def test_kernel_counts_as_many(trace: Any, volume: Volume) -> None:
    """There are as many rows as the kernel's statistics count."""
    tool = trace("biosnoop", "-d", "vg-data", "--json")
    before = volume.reads()
    volume.read(READS)
    counted = volume.reads().requests - before.requests
    tool.end()

    assert READS == counted == len(tool.json)


def test_names_of_a_volume(volume: Volume) -> None:
    """A volume goes by its own name, and by the links that LVM makes."""
    names = ["vg-data", "/dev/mapper/vg-data", "vg/data", "/dev/vg/data", volume.name, volume.path]
    with link_in_dev("vg", "data", volume):
        assert {volume.name} == {find_device(name).disk for name in names}


def test_volume_without_nodes(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /dev lacks the volume, as in a container, it goes by the same names."""
    monkeypatch.setattr("tracewheel.runtime.host.disks._find_node", lambda path: "")
    for name in (volume.name, volume.path, "vg-data", "/dev/mapper/vg-data"):
        assert volume.name == find_device(name).disk


def test_names_of_an_array(array: Array) -> None:
    """An array goes by the link in /dev/md that has its name."""
    with link_in_dev("md", "home", array):
        names = ["home", "md/home", "/dev/md/home", array.name]
        assert {array.name} == {find_device(name).disk for name in names}


def test_requests_only(trace: Any, disk: Disk, volume: Volume) -> None:
    """Without -d what a volume reads shows once: as the request of its disk."""
    tools = [trace(name, "-p", str(os.getpid()), "--json") for name in ("biosnoop", "biolatency")]
    volume.read(READS)
    snoop, latency = (tool.end() for tool in tools)

    assert [(disk.name,)] * READS == shown(snoop, "disk")
    assert [(READS,)] == shown(latency, "count")


def test_split_bio(trace: Any, new_disk: Any, new_volume: Callable[[str, str], Volume]) -> None:
    """A read from both parts of a volume shows once, with all its bytes."""
    disks = [new_disk(), new_disk()]
    volume = new_volume(
        "vg-both", "\n".join(f"{8 * at} 8 linear {disk.path} 0" for at, disk in enumerate(disks))
    )
    tools = [trace(name, "-d", "vg-both", "--json") for name in ("biosnoop", "biolatency")]
    for _ in range(READS):
        volume.read(1, 2 * volume.BLOCK)
    snoop, latency = (tool.end() for tool in tools)

    assert [(0, 2 * volume.BLOCK, 0)] * READS == shown(snoop, "sector", "bytes", "error")
    assert [(READS,)] == shown(latency, "count")
    assert {} == snoop.losses


def test_failed_bio(trace: Any, new_volume: Callable[[str, str], Volume]) -> None:
    """-x shows the error of a bio that failed."""
    volume = new_volume("vg-broken", f"0 {SECTORS} error")
    tool = trace("biosnoop", "-d", "vg-broken", "-x", "--json")
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        volume.read(1, first=READS)
    tool.end()

    assert [(8 * READS, -errno.EIO)] == shown(tool, "sector", "error")


def test_bio_in_flight(trace: Any, volume: Volume) -> None:
    """What has not ended when tracing ends is shown as such."""
    tool = trace("biosnoop", "-d", volume.name, "--json")
    volume.control("suspend")
    with contextlib.ExitStack() as later:
        later.callback(volume.control, "resume")
        reading = volume.reading([READS])
        reading.__enter__()
        tool.end()
    reading.__exit__(None, None, None)

    assert [(8 * READS, -errno.EINPROGRESS)] == shown(tool, "sector", "error")


def test_process_of_a_bio(trace: Any, volume: Volume) -> None:
    """Filters judge who submits the bio."""
    options = ["-d", "vg-data", "-p", str(os.getpid()), "--json"]
    tools = [trace(name, *options) for name in ("biosnoop", "biolatency")]
    volume.read(READS)
    volume.read_in_a_child(OTHERS)
    snoop, latency = (tool.end() for tool in tools)

    assert [(os.getpid(),)] * READS == shown(snoop, "pid")
    assert [(READS,)] == shown(latency, "count")


def test_sampled_bios(trace: Any, volume: Volume) -> None:
    """--sample-rate 2 counts some bios, not all, and loses none."""
    tool = trace("biolatency", "-d", "vg-data", "--sample-rate", "2")
    volume.read(101)
    tool.end()

    seen, lost = tool.counted
    assert 0 < seen < 101
    assert 0 == lost


def issued_by(kind: str) -> list[str]:
    """Return options that force a rung for requests."""
    return [f"--rung={ladder}={kind}" for ladder in ("issue", "complete")]


@pytest.mark.parametrize("kind", KINDS)
def test_partition(trace: Any, partitions: list[Disk], kind: str) -> None:
    """A partition has its own requests only, where its disk has them."""
    wanted, other = partitions
    disk = wanted.name.rpartition("p")[0]
    options = ["-d", wanted.path, "--json", *issued_by(kind)]
    tools = [trace(name, *options) for name in ("biosnoop", "biolatency")]
    whole = trace("biosnoop", "-d", disk, "--json")
    wanted.read(READS)
    other.read(OTHERS)
    wanted.write(WRITES)
    snoop, latency = (tool.end() for tool in tools)
    whole.end()

    places = [(disk, 8 + 8 * at, wanted.BLOCK) for at in range(READS)]
    assert [*places, *places[:WRITES]] == shown(snoop, "disk", "sector", "bytes")
    assert [(READS + WRITES,)] == shown(latency, "count")
    assert READS + OTHERS + WRITES == len(whole.json)


def test_start_by_getrq_in_a_partition(trace: Any, partitions: list[Disk], rungs_of: Any) -> None:
    """Every way to learn of a request's start tells its partition."""
    wanted, other = partitions[::-1]
    for rung in rungs_of("biosnoop", "start"):
        tool = trace("biosnoop", "-d", wanted.name, "--json", f"--rung=start={rung}")
        wanted.read(READS)
        other.read(OTHERS)
        tool.end()

        assert [(SECTORS + 8 * at,) for at in range(READS)] == shown(tool, "sector")


def test_flush_of_a_partition(trace: Any, partitions: list[Disk]) -> None:
    """Requests without data, and those that the kernel makes of them, show no other partition's."""
    wanted, other = partitions
    tool = trace("biosnoop", "-d", wanted.name, "--json")
    other.flush_and_discard()
    wanted.read(READS)
    tool.end()

    assert [("READ",)] * READS == shown(tool, "operation")


@pytest.fixture
def nvme_disk(disk: Disk, until: Callable[[Any], None]) -> Iterator[Disk]:
    """Give an NVMe disk that could have several paths, and has one."""
    load_module("nvme-loop")
    config = Path("/sys/kernel/config")
    if not (config / "nvmet").exists():
        subprocess.run(["mount", "-t", "configfs", "configfs", config], check=True)
    subsystem, port = config / "nvmet/subsystems/tracewheel", config / "nvmet/ports/1"
    space = subsystem / "namespaces/1"
    subsystem.mkdir()
    (subsystem / "attr_allow_any_host").write_text("1")
    space.mkdir()
    (space / "device_path").write_text(disk.path)
    (space / "enable").write_text("1")
    port.mkdir()
    (port / "addr_trtype").write_text("loop")
    (port / "subsystems/tracewheel").symlink_to(subsystem)
    with open("/dev/nvme-fabrics", "r+b", buffering=0) as fabrics:
        fabrics.write(b"transport=loop,nqn=tracewheel")
        instance = fabrics.read(100).split(b",")[0].removeprefix(b"instance=").decode()
    found = Disk(f"/dev/nvme{instance}n1")
    try:
        until(Path(found.path).exists)
        if (found.settings / "mq").exists():
            pytest.skip("needs NVMe disks of several paths: nvme_core.multipath")
        yield found
    finally:
        Path(f"/sys/class/nvme/nvme{instance}/delete_controller").write_text("1")
        (port / "subsystems/tracewheel").unlink()
        for folder in (port, space, subsystem):
            folder.rmdir()


@pytest.mark.parametrize("kind", KINDS)
def test_paths_of_an_nvme_disk(trace: Any, nvme_disk: Disk, kind: str) -> None:
    """Requests of a path are shown and found under the name of the disk that it leads to."""
    [path] = [found.name for found in Path("/sys/class/block").glob("nvme*c*n1")]
    names = [nvme_disk.name, nvme_disk.path, path]
    selected = [trace("biosnoop", "-d", n, "--json", *issued_by(kind)) for n in names]
    every = trace("biolatency", "-D", "--json", *issued_by(kind))
    nvme_disk.read(READS)
    every.end()

    places = [(nvme_disk.name, 8 * at, nvme_disk.BLOCK) for at in range(READS)]
    for tool in selected:
        tool.end()
        assert places == shown(tool, "disk", "sector", "bytes")
        assert {(1,)} == set(shown(tool, "tries"))
    assert (nvme_disk.name, READS) in shown(every, "disk", "count")
    assert path not in [disk for (disk,) in shown(every, "disk")]


@pytest.mark.parametrize("kind", KINDS)
def test_scsi_disk(trace: Any, scsi_disk: ScsiDisk, kind: str) -> None:
    """A SCSI disk is found by its name, behind which the kernel leaves other letters."""
    options = ["-d", scsi_disk.name, "--json", *issued_by(kind)]
    tools = [trace(name, *options) for name in ("biosnoop", "biolatency")]
    scsi_disk.read(READS)
    snoop, latency = (tool.end() for tool in tools)

    assert [(scsi_disk.name,)] * READS == shown(snoop, "disk")
    assert [(READS,)] == shown(latency, "count")
