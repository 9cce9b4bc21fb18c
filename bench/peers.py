# SPDX-License-Identifier: BSD-2-Clause
"""Fetch the newest Debian packages of the peers, without touching the machine's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SUITE = "sid"
# The last is wanted by bcc's bashreadline, which does not say so.
PACKAGES = ("libbpf-tools", "bpftrace", "bpfcc-tools", "bpftool", "python3-pyelftools")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@dataclass(frozen=True)
class Command:
    """How to start a tool."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Peers:
    """The unpacked packages and their versions."""

    root: Path
    versions: Mapping[str, str]

    def command(self, program: str, *arguments: str) -> Command:
        """Run a program of the packages by their own loader and libraries."""
        loader = next(self.root.glob("usr/lib*/ld-linux-*.so.*"))
        libraries = next(self.root.glob("usr/lib/*-linux-gnu"))
        path = str(self.root / "usr" / program)
        return Command((str(loader), "--library-path", str(libraries), path, *arguments))

    def script(self, name: str) -> Command:
        """Run a script that comes with bpftrace."""
        return self.command("bin/bpftrace", str(self.root / "usr/sbin" / name))

    def bcc(self, program: str, *arguments: str) -> Command:
        """Run a tool of bcc, which compiles with kernel headers at its start."""
        python = self.command("bin/python3", str(self.root / "usr/sbin" / program), *arguments)
        environment = {
            "BCC_KERNEL_SOURCE": os.environ.get("BCC_KERNEL_SOURCE", str(self.root / "headers")),
            "PYTHONHOME": str(self.root / "usr"),
            "PYTHONPATH": str(self.root / "usr/lib/python3/dist-packages"),
        }
        return Command(python.argv, environment)


def install() -> Peers:
    """Unpack the packages and all that they need into the user's cache, once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tracewheel/peers"
    versions = cache / "versions.json"
    if not versions.exists() or {*PACKAGES} - json.loads(versions.read_text()).keys():
        shutil.rmtree(cache, ignore_errors=True)
        archives = _download(cache)
        for archive in archives:
            subprocess.run(["dpkg", "-x", archive, cache / "root"], check=True)
        # bcc takes one folder of headers; Debian splits them in two.
        for source in cache.glob("root/usr/src/linux-headers-*"):
            for part in ("include", "arch"):
                merged = cache / "root/headers" / part
                shutil.copytree(source / part, merged, symlinks=True, dirs_exist_ok=True)
        names = [archive.name.split("_") for archive in archives]
        versions.write_text(json.dumps({name[0]: name[1] for name in names if name[0] in PACKAGES}))
        shutil.rmtree(cache / "apt")
    return Peers(cache / "root", json.loads(versions.read_text()))


def _download(cache: Path) -> list[Path]:
    targets = ["apt-get", "indextargets", "--format", "$(REPO_URI)"]
    mirrors = subprocess.run(targets, check=True, capture_output=True, text=True).stdout.split()
    mirror = next(mirror for mirror in mirrors if "security" not in mirror)
    apt = cache / "apt"
    for folder in ("lists/partial", "archives/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "list").write_text(f"deb [signed-by={KEYRING}] {mirror} {SUITE} main\n")
    options = {
        "Dir::Etc::sourcelist": apt / "list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt,
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
    }
    apt_get = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    architecture = ["dpkg", "--print-architecture"]
    name = subprocess.run(architecture, check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run([*apt_get, "update"], check=True)
    packages = [*PACKAGES, f"linux-headers-{name}"]
    subprocess.run([*apt_get, "--yes", "--download-only", "install", *packages], check=True)
    return sorted(apt.glob("archives/*.deb"))
