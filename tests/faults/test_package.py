# SPDX-License-Identifier: BSD-2-Clause
"""Installations that are damaged, and surroundings that want to be imported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tracewheel
from tracewheel.runtime.spec.catalogue import tool_names

if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS = Path(sys.executable).parent
PACKAGE = Path(tracewheel.__file__).parent


def shorten(path: Path) -> None:
    """Lose the second half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Change a bit."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    """Lose all content."""
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("which", "damage"),
    [
        ("{}.bpf.o", Path.unlink),
        ("{}.bpf.o", shorten),
        ("{}.bpf.o", flip),
        ("manifest", Path.unlink),
        ("manifest", empty),
    ],
)
def test_damaged_object(
    tmp_path: Path, tool_name: str, which: str, damage: Callable[[Path], None]
) -> None:
    """A BPF object that is damaged or missing makes the tool fail with a line that names it."""
    copy = tmp_path / "tracewheel"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    damaged = copy / "bpf" / which.format(tool_name)
    damage(damaged)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = [{tool_name!r}];"
        "from tracewheel.runtime.cli import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd="/"
    )

    assert (1, "") == (done.returncode, done.stdout)
    assert 1 == done.stderr.count("\n")
    assert str(copy / "bpf") in done.stderr
    assert "install tracewheel again" in done.stderr


def test_isolated_interpreter(run: Any, tool_name: str) -> None:
    """A tool runs under python -I -B, and leaves no file behind."""
    before = sorted(PACKAGE.rglob("*"))
    with run("python", "-I", "-B", COMMANDS / tool_name, "--help") as tool:
        tool.ended()

    assert (0, "") == (tool.code, tool.err)
    assert before == sorted(PACKAGE.rglob("*"))


@pytest.mark.parametrize("python_path", [None, "", "/no/such:POISON::."])
def test_poisoned_folder(run: Any, tmp_path: Path, tool_name: str, python_path: str | None) -> None:
    """Nothing is imported from the working directory, nor from where PYTHONPATH points."""
    poison = "import os; os.write(2, b'poisoned by ' + __file__.encode()); os._exit(99)\n"
    for name in sorted(sys.stdlib_module_names) if sys.version_info >= (3, 10) else ["json", "re"]:
        # The interpreter itself imports these before any code of ours runs.
        if name not in ("sitecustomize", "usercustomize", "encodings", "codecs", "site", "os"):
            (tmp_path / f"{name}.py").write_text(poison)
    (tmp_path / "tracewheel.py").write_text(poison)
    env = {**os.environ}
    env.pop("PYTHONPATH", None)
    if python_path is not None:
        env["PYTHONPATH"] = python_path.replace("POISON", str(tmp_path))
    with run(tool_name, "--json", "--duration", "0.1", env=env, cwd=tmp_path) as tool:
        tool.ended()

    assert "poisoned" not in tool.err
    assert tool.code == (3 if os.geteuid() else 0)


def test_library_leaves_the_path_alone(tmp_path: Path) -> None:
    """Importing the package as a library changes nothing of the program that does so."""
    (tmp_path / "theirs.py").write_text("print('imported')\n")
    code = "import sys; before = list(sys.path); import tracewheel; import theirs\n"
    code += "assert before == sys.path"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        timeout=120,
    )

    assert (0, "imported\n", "") == (done.returncode, done.stdout, done.stderr)


def test_unknown_tool() -> None:
    """A tool that is not there is an attribute that is not there."""
    assert tool_names()
    with pytest.raises(AttributeError, match="no tool 'no_such_tool'"):
        _ = tracewheel.no_such_tool
