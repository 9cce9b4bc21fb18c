# SPDX-License-Identifier: BSD-2-Clause
"""Run a command under another kernel, on a copy-on-write view of this machine's files.

The command's output, errors and exit status are passed on; 125 says that the guest failed.
"""

from __future__ import annotations

import argparse
import contextlib
import lzma
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kernels import SUITES, Kernel, KernelError, fetch

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
GUEST_FAILED = 125
INT3 = "Oops: int3"
RETRIES = 2
# What stands between the kernel and its root; a kernel may have some of it built in.
MODULES = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"]
COMPLAINTS = ("Kernel panic", "Oops", "BUG:", "WARNING:", "soft lockup", "rcu_sched detected")


@dataclass(frozen=True)
class Outcome:
    """What became of a guest; without a status there is a reason."""

    status: int | None
    reason: str
    console: str


def main() -> int:
    """Parse the command line and return the command's exit status."""
    options = parse_arguments()
    # As an exception, so that QEMU ends with us.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        kernel = fetch(options.kernel)
    except KernelError as error:
        say(str(error))
        return GUEST_FAILED
    outcome = boot(kernel, options)
    for _ in range(RETRIES):
        # With several CPUs QEMU's emulation races the kernel's patching of its own code.
        if options.cpus == 1 or outcome.status is not None or INT3 not in outcome.console:
            break
        say("the guest died of QEMU's int3 race: trying again")
        outcome = boot(kernel, options)
    lines = outcome.console.splitlines()
    for line in [line for line in lines if any(words in line for words in COMPLAINTS)][:5]:
        say(f"the kernel complains: {line}")
    if outcome.status is None:
        say("\n".join([outcome.reason, *lines[-40:]]))
        return GUEST_FAILED
    return outcome.status


def say(text: str) -> None:
    """Print to stderr, as stdout is the command's."""
    print(f"vm: {text}", file=sys.stderr)


def parse_arguments() -> argparse.Namespace:
    """Return the options, with the command as a list."""
    parser = argparse.ArgumentParser(
        description=__doc__, usage="./dev vm --kernel K [OPTIONS] -- COMMAND [ARGUMENTS]"
    )
    parser.add_argument("--kernel", required=True, choices=SUITES)
    parser.add_argument("--cpus", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--spare", type=int, default=2, metavar="N", help="CPUs that could come")
    parser.add_argument("--mem", type=int, default=2048, metavar="MB", help="default: 2048")
    parser.add_argument("--timeout", type=int, default=900, metavar="SECONDS", help="default: 900")
    parser.add_argument(
        "--icount", action="store_true", help="let each instruction take 1 ns: for measurements"
    )
    parser.add_argument("--share", type=Path, metavar="DIR", help="make a folder writable")
    parser.add_argument("command", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def boot(kernel: Kernel, options: argparse.Namespace) -> Outcome:
    """Start a guest and wait for its end."""
    with tempfile.TemporaryDirectory(prefix="vm-") as name:
        work = Path(name)
        control = work / "control"
        control.mkdir()
        shutil.copy(HERE / "guest.sh", control)
        (control / "settings").write_text(settings(options.share))
        (control / "command").write_text(f"exec {shlex.join(options.command)}\n")
        (work / "initramfs").write_bytes(initramfs(kernel))
        shares = {"host": Path("/"), "control": control, "modules": kernel.modules}
        if options.share:
            shares["share"] = options.share.resolve()
        reason = emulate(kernel, options, work, shares)
        status, console = control / "status", work / "console"
        return Outcome(
            int(status.read_text()) if status.exists() else None,
            reason,
            console.read_text(errors="replace") if console.exists() else "",
        )


def settings(share: Path | None) -> str:
    """Write the part of the guest's script that depends on this call."""
    here = Path.cwd()
    kept = [f"keep {shlex.quote(str(path))}\n" for path in {REPOSITORY, here} if under_tmp(path)]
    shared = [f"share share {shlex.quote(str(share.resolve()))}\n"] if share else []
    return "".join([*kept, *shared, f"cd {shlex.quote(str(here))}\n"])


def under_tmp(path: Path) -> bool:
    """Tell whether the guest's /tmp would hide a path."""
    return Path("/tmp") in path.parents


def emulate(
    kernel: Kernel, options: argparse.Namespace, work: Path, shares: dict[str, Path]
) -> str:
    """Run QEMU, passing on what the command writes, and tell how QEMU ended."""
    # Time that passes by instructions does not depend on what else the host does.
    threads = ["tcg,thread=single", "-icount", "shift=0,sleep=off"] if options.icount else []
    arguments = [
        "qemu-system-x86_64",
        *("-machine", "q35,vmport=on", "-accel", *(threads or ["tcg,thread=multi"])),
        # More could come later: per-CPU maps have room for all that are possible. The kernel
        # believes so if it knows the hypervisor, and QEMU can pass for VMware: Linux commit
        # adbf61cc47cb ("x86/acpi/boot: Correct acpi_is_processor_usable() check again"), which
        # v6.12.117 has, too.
        *("-smp", f"{options.cpus},maxcpus={options.cpus + options.spare}"),
        *("-m", str(options.mem)),
        # Without "fast string" instructions the kernel copies and clears by words: QEMU emulates
        # them byte by byte, which took a third of all time.
        *("-cpu", "max,la57=off,hypervisor=off,erms=off,fsrm=off"),
        *("-smbios", "type=1,serial=VMware"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-kernel", str(kernel.image), "-initrd", str(work / "initramfs")),
        "-append",
        "console=ttyS0 quiet panic=-1 oops=panic mitigations=off tsc=reliable no_timer_check "
        "rcupdate.rcu_expedited=1 random.trust_cpu=on",
        *("-serial", f"file:{work / 'console'}", "-device", "virtio-serial-pci"),
    ]
    for tag, folder in shares.items():
        readonly = "on" if tag in ("host", "modules") else "off"
        arguments += [
            "-fsdev",
            f"local,id={tag},path={folder},security_model=none,multidevs=remap,readonly={readonly}",
            *("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
        ]
    copiers = []
    ends = []
    for number, stream in enumerate((sys.stdout, sys.stderr), 1):
        source, end = os.pipe()
        ends.append(end)
        arguments += [
            *("-chardev", f"file,id=port{number},path=/dev/fd/{end}"),
            *("-device", f"virtserialport,nr={number},chardev=port{number}"),
        ]
        copiers.append(threading.Thread(target=copy, args=(source, stream.buffer)))
    with open(work / "qemu.log", "wb") as log:
        qemu = subprocess.Popen(
            arguments, pass_fds=ends, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    for end in ends:
        os.close(end)
    for copier in copiers:
        copier.start()
    try:
        qemu.wait(options.timeout)
    except subprocess.TimeoutExpired:
        return f"not done after {options.timeout} s"
    finally:
        qemu.kill()
        qemu.wait()
        for copier in copiers:
            copier.join()
    return (work / "qemu.log").read_text().strip() or "the guest ended without telling a status"


def copy(source: int, stream: BinaryIO) -> None:
    """Pass on each piece as soon as it is there, until nobody reads any more."""
    with contextlib.suppress(BrokenPipeError):
        while piece := os.read(source, 65536):
            stream.write(piece)
            stream.flush()
    os.close(source)


def initramfs(kernel: Kernel) -> bytes:
    """Pack busybox, our script and the modules; packed plain, as unpacking is slow in a guest."""
    files = {
        "init": (HERE / "initramfs.sh").read_bytes(),
        "busybox": Path(shutil.which("busybox") or "/bin/busybox").read_bytes(),
    }
    for number, path in enumerate(needed_modules(kernel)):
        content = path.read_bytes()
        if path.suffix == ".xz":
            content = lzma.decompress(content)
        files[f"modules/{number:02}"] = content
    return archive(files)


def needed_modules(kernel: Kernel) -> list[Path]:
    """List the files of MODULES and of what they need, in the order to load them."""
    base = kernel.modules.parent.parent
    listed = ""
    for module in MODULES:
        command = ["modprobe", "-d", str(base), "-S", kernel.release, "--show-depends", module]
        listed += subprocess.run(command, check=True, capture_output=True, text=True).stdout
    paths = [line.split()[1] for line in listed.splitlines() if line.startswith("insmod")]
    return [Path(path) for path in dict.fromkeys(paths)]


def archive(files: dict[str, bytes]) -> bytes:
    """Write executable files in cpio's "newc" format, each after the folder that it is in."""
    entries = [("modules", 0o040755, b"")]
    entries += [(name, 0o100755, content) for name, content in files.items()]
    packed = bytearray()
    for inode, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        numbers = [inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        packed += b"070701" + "".join(f"{number:08x}" for number in numbers).encode()
        packed += name.encode() + b"\0"
        packed += bytes(-len(packed) % 4)
        packed += content
        packed += bytes(-len(packed) % 4)
    return bytes(packed)


if __name__ == "__main__":
    sys.exit(main())
