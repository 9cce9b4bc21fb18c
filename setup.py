# SPDX-License-Identifier: BSD-2-Clause
"""Compile what the wheel carries; its metadata is in pyproject.toml."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parent
SHIM = "libbpf_shim/build.py"
TOOLS = sorted(
    path.stem
    for path in (ROOT / "pytools/tracewheel/tools").glob("*.py")
    if not path.stem.startswith("_")
)
COMMANDS = ["tracewheel", *TOOLS]
# Every command is this script. A tool runs as root in whatever folder is at hand: nothing is
# imported from there, nor from where PYTHONPATH points. The scripts that pip makes import first.
LAUNCHER = """#!python
import _signal  # signal itself takes a millisecond to import
import os

if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    # Until the tool traces, Ctrl-C just ends it; Python would print where it was.
    _signal.signal(_signal.SIGINT, lambda number, frame: os._exit(0))
import sys

given = os.environ.get("PYTHONPATH")  # in which an empty part is the working directory
elsewhere = {os.path.abspath(path) for path in given.split(os.pathsep)} if given else set()
sys.path[:] = [path for path in sys.path if path and os.path.abspath(path) not in elsewhere]

from tracewheel.runtime.cli import main

sys.exit(main())
"""


class BuildWheel(build_py):
    """Add the version, the BPF objects and the man pages to the modules."""

    def run(self) -> None:
        """Build from nothing, so that what has left the sources leaves the wheel."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        package = Path(self.build_lib, "tracewheel")
        version = self.distribution.get_version()
        (package / "_version.py").write_text(f'__version__ = "{version}"\n')
        install_objects(package / "bpf")
        pages = write_manuals(Path(self.build_lib), ROOT / "build/man", version)
        self.distribution.data_files = [("share/man/man1", pages)]


class BuildShim(build_ext):
    """Compile the shim; then, with its help, write the types of the events."""

    def run(self) -> None:
        """Build, and look into the BPF objects."""
        super().run()
        sys.path.append(str(ROOT))
        importlib.invalidate_caches()  # the shim was not there when its folder was looked at
        from stubs import write_types

        write_types(Path(self.build_lib, "tracewheel"))


def install_objects(folder: Path) -> None:
    """Compile the BPF programs; copy this machine's, with their checksums."""
    build = ROOT / "build/bpf"
    subprocess.run(["cmake", "-G", "Ninja", "-S", ROOT, "-B", build], check=True)
    subprocess.run(["cmake", "--build", build], check=True)
    folder.mkdir()
    machine = sysconfig.get_platform().partition("-")[2]
    shutil.copy(ROOT / f"vmlinux/{machine}/syscalls.h", folder)
    checksums = []
    # By the sources, because the build folder keeps the objects of those that are gone.
    for source in sorted(ROOT.glob("bpf_src/*.bpf.c")):
        name = f"{source.stem}.o"
        content = (build / machine / name).read_bytes()
        (folder / name).write_bytes(content)
        checksums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    (folder / "manifest").write_text("".join(checksums))


def write_manuals(modules: Path, folder: Path, version: str) -> list[str]:
    """Write a man page per command and return their paths."""
    sys.path.insert(0, str(modules))
    sys.dont_write_bytecode = True
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pages = [folder / f"{command}.1" for command in COMMANDS]
    for page in pages:
        page.write_text(manual(page.stem, version, modules))
    return [str(page.relative_to(ROOT)) for page in pages]


def in_roff(text: str) -> str:
    """Return text as roff shows it unchanged."""
    return text.replace("\\", r"\e").replace("-", r"\-")


def entries_in_roff(entries: Iterable[tuple[str, str]]) -> list[str]:
    """Return lines of roff: each thing in bold, and what it means below."""
    lines = []
    for what, meaning in entries:
        lines += [".TP", f"\\fB{in_roff(what)}\\fR", in_roff(meaning) or r"\&"]
    return lines


def sections_in_roff(command: str) -> list[str]:
    """Return the sections of a man page behind the options, in lines of roff."""
    from tracewheel.runtime.manual import sections_of

    lines = []
    for section in sections_of(command):
        lines.append(f".SH {in_roff(section.heading.upper())}")
        for paragraph in section.paragraphs:
            lines += [".PP", in_roff(" ".join(paragraph.split()))]
        lines += entries_in_roff(section.entries)
    return lines


def losses_in_roff(command: str, modules: Path) -> list[str]:
    """Return the section that explains the words of a tool's last line, in lines of roff."""
    from tracewheel.runtime.spec.catalogue import load_tool
    from tracewheel.runtime.spec.losses import counters_in, losses_of

    if command not in TOOLS:
        return []
    counters = counters_in((modules / f"tracewheel/bpf/{command}.bpf.o").read_bytes())
    losses = losses_of(load_tool(command)[0], counters)
    first = [".SH LOSSES", "The last line may name these causes of lost events:"]
    return [*first, *entries_in_roff(losses)]


def manual(command: str, version: str, modules: Path) -> str:
    """Return the man page of a command in roff."""
    from argparse_manpage.manpage import Manpage
    from tracewheel.runtime.manual import parser, usages_of

    command_parser = parser(command)
    command_parser.epilog = None  # its sections are added below
    page = Manpage(command_parser)
    page.description = command_parser.description
    page.source = f"tracewheel {version}"
    page.manual = "tracewheel"
    usages = [in_roff(usage) for usage in usages_of(command)]
    page.add_section("synopsis", "=", "\n.br\n".join(usages))
    lines = [*sections_in_roff(command), *losses_in_roff(command, modules), ""]
    return str(page) + "\n".join(lines)


def write_scripts(folder: Path) -> list[str]:
    """Write a script per command and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    scripts = [folder / command for command in COMMANDS]
    for script in scripts:
        script.write_text(LAUNCHER)
    return [str(script.relative_to(ROOT)) for script in scripts]


(ROOT / "build").mkdir(exist_ok=True)
setup(
    cffi_modules=[f"{SHIM}:ffibuilder"],
    cmdclass={"build_py": BuildWheel, "build_ext": BuildShim},
    scripts=write_scripts(ROOT / "build/scripts"),
    options={
        "bdist_wheel": {"py_limited_api": "cp39"},
        # Not into the sources: `dev` would take it for a change.
        "egg_info": {"egg_base": "build"},
    },
)
