# SPDX-License-Identifier: BSD-2-Clause
"""Fetch Debian's kernels, whatever suite or architecture this machine runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tracewheel"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

SUITES = {
    "5.10": "bullseye-security",
    "6.1": "bookworm",
    "6.12": "trixie",
    "7": "sid",
}


class KernelError(Exception):
    """Say in one line why there is no kernel to boot."""


@dataclass(frozen=True)
class Kernel:
    """A kernel package unpacked into a folder."""

    folder: Path

    @property
    def image(self) -> Path:
        """Find the bootable image; from Linux 7 on it is beside the modules."""
        return next(p for p in self.folder.rglob("vmlinuz*") if p.is_file())

    @property
    def modules(self) -> Path:
        """Find the folder that a guest mounts as /lib/modules."""
        return next(self.folder.rglob("lib/modules"))

    @property
    def release(self) -> str:
        """Return what `uname -r` prints in the guest."""
        return next(self.modules.iterdir()).name


def fetch(name: str) -> Kernel:
    """Return the kernel of that name, downloaded unless it is in the cache."""
    kernel = Kernel(CACHE / "kernels" / name)
    if not kernel.folder.exists():
        print(f"fetching Linux {name} from Debian {SUITES[name]}", file=sys.stderr)
        download(SUITES[name], "amd64", "linux-image-amd64", kernel.folder)
    return kernel


def download(
    suite: str, architecture: str, package: str, folder: Path, version: str | None = None
) -> None:
    """Unpack a kernel package, and those it consists of, into a new folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as name:
        work = Path(name)
        options = _apt_options(suite, architecture, work)
        # The metapackage depends on a release's image; from Linux 7 on that one is empty and
        # depends on two more.
        parts = _parts(options, package, "base|binary|image|modules")
        wanted = [f"{part}={version}" if version else part for part in parts]
        tree = _unpack(work, options, wanted)
        kernel = Kernel(tree)
        base = kernel.modules.parent.parent
        _run("depmod", "--basedir", str(base), kernel.release)
        tree.rename(folder)


def download_headers(suite: str, folder: Path) -> str:
    """Unpack the kernel's headers for programs, of every architecture; return their version."""
    options = _apt_options(suite, "amd64", folder)
    _unpack(folder, options, ["linux-libc-dev"])
    return next(folder.glob("*.deb")).name.split("_")[1]


def fetch_headers(name: str) -> Path:
    """Return a folder with what modules of a kernel are compiled with, from the cache if there."""
    folder = CACHE / "headers" / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as work:
            options = _apt_options(SUITES[name], "amd64", Path(work))
            tree = _unpack(Path(work), options, _parts(options, "linux-headers-amd64", "headers"))
            # Debian splits them in two.
            for part in [*tree.glob("usr/src/*/include"), *tree.glob("usr/src/*/arch")]:
                merged = Path(work, "all", part.name)
                shutil.copytree(part, merged, symlinks=True, dirs_exist_ok=True)
            Path(work, "all").rename(folder)
    return folder


def _parts(options: list[str], package: str, kinds: str) -> list[str]:
    """List a metapackage's packages of some kinds."""
    listed = _run("apt-cache", *options, "depends", "--recurse", "--important", package)
    return re.findall(rf"^linux-(?:{kinds})-\d\S*", listed, re.MULTILINE)


def _unpack(work: Path, options: list[str], packages: list[str]) -> Path:
    """Download packages into a folder and unpack them into another within; return that."""
    _run("apt-get", *options, "download", *packages, cwd=work)
    tree = work / "tree"
    tree.mkdir()
    for archive in work.glob("*.deb"):
        _run("dpkg-deb", "--extract", str(archive), str(tree))
    return tree


def _apt_options(suite: str, architecture: str, work: Path) -> list[str]:
    """Make a private apt, so that the machine's own lists stay as they are."""
    mirrors = _run("apt-get", "indextargets", "--format=$(REPO_URI)", "Label: Debian").split()
    if not mirrors:
        raise KernelError("no Debian mirror known: run apt-get update")
    mirror = mirrors[0].rstrip("/")
    if suite.endswith("-security"):
        mirror += "-security"
    sources = work / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {mirror} {suite} main\n")
    (work / "lists").mkdir()
    settings = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": work / "lists",
        "Dir::State::Status": "/dev/null",
        "Dir::Cache": work,
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
        # Suites that have reached their end of life keep an expired, still signed, Release.
        "Acquire::Check-Valid-Until": "false",
    }
    options = [f"--option={key}={value}" for key, value in settings.items()]
    _run("apt-get", *options, "update")
    return options


def _run(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, text=True, capture_output=True)
    except FileNotFoundError:
        raise KernelError(f"{command[0]} is missing: run ./dev setup") from None
    if done.returncode:
        reason = (done.stderr.strip() or "failed").splitlines()[-1]
        raise KernelError(f"{command[0]}: {reason}")
    return done.stdout
