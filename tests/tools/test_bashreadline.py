# SPDX-License-Identifier: BSD-2-Clause
"""Lines typed into shells here show as they were typed."""

from __future__ import annotations

import contextlib
import datetime
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PRIME = 23
BASH = "/bin/bash"
LIMIT_S = 120
HOSTILE = [
    b"#\x1b[31mred\x07\x1b]0;title\x07",
    b"#cursor up\x1b[1A\x1b[1B\x1b[13C",
    b"#two\nlines\ttab\x7f",
    "#grün \u009b31m a\u202egnp.exe \u2028".encode(),
    rb"#\x41 \\n % %s {0} \'\"",
    b"",
    b"  ",
]
LINES = [*HOSTILE, b"#" + b"x" * 3999, *[b": line %d" % number for number in range(PRIME - 8)]]
# A program that reads lines as bash does, one that reads them in another way, and its library.
READER = r"""
#include <stdio.h>
#include <stdlib.h>
char *readline(const char *prompt);
int main(void)
{
	char *line;
	int number = 0;
	for (;;) {
		printf("@%d@\n", ++number);
		fflush(stdout);
		if (!(line = readline("ready> ")))
			return 0;
		free(line);
	}
}
"""
LIBRARY = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
char *readline(const char *prompt)
{
	char *line = malloc(5000);
	fputs(prompt, stdout);
	fflush(stdout);
	if (!fgets(line, 5000, stdin))
		return NULL;
	line[strcspn(line, "\n")] = 0;
	return line;
}
"""


class Shell:
    """A shell on a terminal of its own, that has shown its prompt."""

    def __init__(self, *command: str, wait: bool = True, **env: str) -> None:
        command = command or (BASH, "--norc", "--noprofile", "-i")
        environment = {
            "LC_ALL": "C.UTF-8",
            "TERM": "dumb",
            "PATH": os.environ["PATH"],
            "PROMPT_COMMAND": 'echo "@$((++n))@"',
            "PS1": "ready> ",
            "INPUTRC": "/dev/null",
            **env,
        }
        self.pid, self._terminal = pty.fork()
        if not self.pid:
            try:
                os.execvpe(command[0], command, environment)
            finally:
                os._exit(127)
        self._said = b""
        self._prompts = 0
        if wait:
            self.prompt()

    def prompt(self) -> Shell:
        """Wait for the next prompt."""
        self._prompts += 1
        self._hear(lambda: b"ready> " in self._said.partition(b"@%d@" % self._prompts)[2])
        return self

    def type(self, *lines: bytes) -> None:
        """Type lines, what means something to the line editor behind a ^V."""
        for line in lines:
            keys = b"".join(
                b"\x16" + line[i : i + 1] if line[i] < 32 or line[i] == 127 else line[i : i + 1]
                for i in range(len(line))
            )
            for at in range(0, len(keys), 256):
                os.write(self._terminal, keys[at : at + 256])
                self._hear(None)
            os.write(self._terminal, b"\r")
            self.prompt()

    def _hear(self, claim: Callable[[], bool] | None) -> None:
        """Read what is shown until a claim holds; without one, what there is already."""
        deadline = time.monotonic() + LIMIT_S
        while not (claim and claim()):
            left = deadline - time.monotonic() if claim else 0
            if not select.select([self._terminal], [], [], left)[0]:
                assert not claim, self._said[-500:]
                return
            self._said += os.read(self._terminal, 65536)

    def end(self) -> None:
        """Hang up and wait for the end."""
        os.close(self._terminal)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def shell() -> Iterator[Callable[..., Shell]]:
    """Give a function that starts a shell; ended after the test."""
    started: list[Shell] = []

    def start(*command: str, **settings: Any) -> Shell:
        started.append(Shell(*command, **settings))
        return started[-1]

    yield start
    for each in started:
        each.end()


def of(shell: Shell, tool: Any, bytes_in: Any) -> list[bytes]:
    """Return the lines that the tool has shown for a shell."""
    return [bytes_in(e, "command") for e in tool.json if e["pid"] == shell.pid]


@pytest.mark.parametrize("arrival", ["tp_btf", "raw_tp"])
def test_every_line(
    trace: Any, rungs_of: Any, shell: Any, bytes_in: Any, until: Any, tmp_path: Path, arrival: str
) -> None:
    """Each line of a shell that waits, of one that starts, and of another file shows once."""
    assert arrival in rungs_of("bashreadline", "arrival")
    waiting = shell()
    tool = trace("bashreadline", "--json", "--rung", f"arrival={arrival}")
    later = shell()
    other = Path(shutil.copy(BASH, tmp_path / "bash"))
    elsewhere = shell(str(other), "--norc", "--noprofile", "-i")
    until(lambda: probed(elsewhere))
    shells = [waiting, later, elsewhere]
    for line in LINES:
        for each in shells:
            each.type(line)
    tool.end()

    assert [LINES] * 3 == [of(each, tool, bytes_in) for each in shells]
    assert 0 == tool.summary["lost"]


def test_hostile_lines_in_a_table(trace: Any, shell: Any, unescape: Any) -> None:
    """Each line is one row of harmless characters that tell its bytes."""
    waiting = shell()
    tool = trace("bashreadline", "-p", str(waiting.pid), "--columns", "command", "--no-header")
    waiting.type(*LINES)
    rows = tool.end().out.split("\n")[:-1]

    assert LINES == [unescape(row) for row in rows]
    assert all(row.isprintable() for row in rows)


def test_pid(trace: Any, shell: Any) -> None:
    """With -p the lines of one shell show, by its process, with its user."""
    shells = [shell(), shell()]
    tool = trace("bashreadline", "-p", str(shells[0].pid), "--columns", "pid,uid,comm,command")
    for number in range(PRIME):
        shells[number % 2].type(b"#%d" % number)
    tool.end()

    expected = [[str(shells[0].pid), "0", "bash", f"#{n}"] for n in range(0, PRIME, 2)]
    assert expected == tool.rows


def test_glob(trace: Any, shell: Any) -> None:
    """With -l only lines that match show."""
    waiting = shell()
    tool = trace("bashreadline", "-p", str(waiting.pid), "--columns", "command", "-l", "*sud[ou] *")
    waiting.type(b"#sudo", b"#sudo x", b"#a sudu /y", b"#sud x")

    assert ["#sudo x", "#a sudu /y"] == tool.end().out.splitlines()[1:]


def test_times(trace: Any, shell: Any) -> None:
    """The time of day is the first column; with -t it has the date and milliseconds."""
    waiting = shell()
    tools = [trace("bashreadline", "-p", str(waiting.pid), *options) for options in ([], ["-t"])]
    before = datetime.datetime.now()
    waiting.type(b"#now")
    after = datetime.datetime.now()
    plain, full = (tool.end().out.splitlines() for tool in tools)
    shown = datetime.datetime.strptime(full[1][:23], "%Y-%m-%d %H:%M:%S.%f")

    assert before - datetime.timedelta(milliseconds=2) <= shown <= after
    assert [shown.strftime("%H:%M:%S"), str(waiting.pid), "#now"] == plain[1].split()
    assert plain[0].index("PID") == plain[1].index(str(waiting.pid))
    assert full[0].index("PID") == full[1].index(str(waiting.pid))


def probed(shell: Shell, function: str = "readline_internal_teardown", file: str = "bash") -> bool:
    """Tell whether a function of a mapped file begins otherwise in the process than on disk."""
    for line in Path(f"/proc/{shell.pid}/maps").read_text().splitlines():
        base, path = int(line.split("-")[0], 16), line.split(maxsplit=5)[-1]
        if Path(path).name.startswith(file):
            break
    content = Path(f"/proc/{shell.pid}/root{path}")
    listed = subprocess.run(["nm", "-D", content], capture_output=True, text=True, check=True)
    (symbol,) = (s for s in listed.stdout.splitlines() if s.endswith(f" T {function}"))
    # In these files the offset of code equals its address.
    at = int(symbol.split()[0], 16)
    with open(f"/proc/{shell.pid}/mem", "rb") as memory:
        memory.seek(base + at)
        return memory.read(1) != content.read_bytes()[at : at + 1]


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Path]:
    """Give a function that compiles a program that reads lines."""

    def compile_reader(path: Path, *options: str) -> Path:
        path.parent.mkdir(exist_ok=True)
        source = tmp_path / "reader.c"
        source.write_text(READER)
        subprocess.run(["cc", "-o", path, source, *options], check=True)
        return path

    return compile_reader


def apart(shell: Any, script: str, *command: str) -> Shell:
    """Start a shell behind a script, in a mount namespace of its own."""
    words = command or (BASH, "--norc", "--noprofile", "-i")
    started: Shell = shell("unshare", "-m", "sh", "-ec", f'{script}; exec "$@"', "sh", *words)
    return started


def test_other_mount_namespaces(
    trace: Any, shell: Any, until: Any, bytes_in: Any, tmp_path: Path
) -> None:
    """Files that only another mount namespace has are found, before and after the start."""
    script = f"mount -t tmpfs tmpfs {tmp_path}; cp {BASH} {tmp_path}"
    command = (str(tmp_path / "bash"), "--norc", "--noprofile", "-i")
    before = apart(shell, script, *command)
    tool = trace("bashreadline", "--json")
    after = apart(shell, script, *command)
    until(lambda: probed(after))
    for each in (before, after):
        each.type(*LINES)
    tool.end()

    assert not (tmp_path / "bash").exists()
    assert [LINES] * 2 == [of(each, tool, bytes_in) for each in (before, after)]


def test_one_file_beneath_overlays(
    trace: Any, shell: Any, until: Any, bytes_in: Any, tmp_path: Path
) -> None:
    """Containers that have a file in common show each line once, and one that changed it too."""
    for name in ("lower", "upper", "work", "at"):
        (tmp_path / name).mkdir()
    shutil.copy(BASH, tmp_path / "lower/bash")
    mount = (
        f"mount -t tmpfs tmpfs {tmp_path}/work; mkdir {tmp_path}/work/u {tmp_path}/work/w; "
        f"mount -t overlay overlay -o lowerdir={tmp_path}/lower,upperdir={tmp_path}/work/u,"
        f"workdir={tmp_path}/work/w {tmp_path}/at"
    )
    command = (f"{tmp_path}/at/bash", "--norc", "--noprofile", "-i")
    beneath = (f"{tmp_path}/lower/bash", "--norc", "--noprofile", "-i")
    shells = [apart(shell, mount, *command) for _ in range(2)]
    tool = trace("bashreadline", "--json")
    shells.append(shell(*beneath))
    shells.append(apart(shell, mount, *command))
    shells.append(apart(shell, f"{mount}; chmod 700 {tmp_path}/at/bash", *command))
    for each in shells:
        until(lambda each=each: probed(each))
        each.type(*LINES)
    tool.end()

    assert [LINES] * 5 == [of(each, tool, bytes_in) for each in shells]


def test_deleted_file(trace: Any, shell: Any, bytes_in: Any, tmp_path: Path) -> None:
    """A shell whose file is deleted, as by an upgrade, is found through its process."""
    path = Path(shutil.copy(BASH, tmp_path / "bash"))
    waiting = shell(str(path), "--norc", "--noprofile", "-i")
    path.unlink()
    tool = trace("bashreadline", "--json", "-p", str(waiting.pid))
    waiting.type(*LINES)
    tool.end()

    assert [LINES] == [of(waiting, tool, bytes_in)]


def test_shared_library(
    trace: Any, shell: Any, until: Any, build: Any, bytes_in: Any, tmp_path: Path
) -> None:
    """A bash whose readline is a library shows, also one that starts with another copy of it."""
    program = build(tmp_path / "bash", "-lreadline")
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    (library,) = (line.split()[2] for line in linked.splitlines() if "libreadline" in line)
    shutil.copy(library, tmp_path)
    before = shell(str(program))
    tool = trace("bashreadline", "--json")
    after = shell(str(program), LD_LIBRARY_PATH=str(tmp_path))
    until(lambda: probed(after, file="libreadline"))
    for each in (before, after):
        each.type(*LINES)
    tool.end()

    assert [LINES] * 2 == [of(each, tool, bytes_in) for each in (before, after)]


def test_other_programs_with_the_library(
    trace: Any, shell: Any, build: Any, bytes_in: Any, tmp_path: Path
) -> None:
    """What another program reads with a bash's library shows only if that file was chosen."""
    bash = build(tmp_path / "bash", "-lreadline")
    other = build(tmp_path / "other", "-lreadline")
    library = tmp_path / "libreadline-link"
    shells = [shell(str(bash)), shell(str(other))]
    maps = Path(f"/proc/{shells[0].pid}/maps").read_text().split()
    library.symlink_to(next(word for word in maps if "/libreadline.so" in word))
    tools = [trace("bashreadline", "--json", *o) for o in ([], ["-s", str(library)])]
    for each in shells:
        each.type(*LINES)
    for tool in tools:
        tool.end()

    shown = [[of(each, tool, bytes_in) for each in shells] for tool in tools]
    assert [[LINES, []], [LINES, LINES]] == shown


def test_only_readline(trace: Any, shell: Any, build: Any, bytes_in: Any, tmp_path: Path) -> None:
    """Where only readline() can be probed the line under way is missing, and this is said."""
    source = tmp_path / "library.c"
    source.write_text(LIBRARY)
    library = tmp_path / "libreadline.so.9"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    program = build(tmp_path / "bash", str(library))
    waiting = shell(str(program))
    tool = trace("bashreadline", "--json", "-p", str(waiting.pid))
    waiting.type(b"under way", b"second", b"third")
    tool.end()

    assert [b"second", b"third"] == of(waiting, tool, bytes_in)
    assert f"{library} has only readline: the line that is being typed now" in tool.err


def test_without_any_shell(run: Any, tmp_path: Path) -> None:
    """Where there is no bash this is said, and is no error."""
    script = (
        f"mount --bind /bin/true $(readlink -f {BASH}); mount -t proc proc /proc;"
        f"exec {Path(sys.executable).parent}/bashreadline --duration 0.1"
    )
    with run(shutil.which("unshare"), "-mpf", "--kill-child", "sh", "-ec", script) as tool:
        tool.ended()

    assert 0 == tool.code
    assert tool.err.startswith("bashreadline: no bash found yet\n")
    assert (0, 0) == tool.counted


def test_refused(run: Any) -> None:
    """Where the kernel refuses the only rung the exit code is 4, and one line says so."""
    hide = "mount -t tmpfs tmpfs"
    script = (
        f"{hide} /sys/bus/event_source/devices; {hide} /sys/kernel/tracing;"
        f"{hide} /sys/kernel/debug; exec {Path(sys.executable).parent}/bashreadline"
    )
    forced = " --rung command=uretprobe"
    with run(shutil.which("unshare"), "-m", "sh", "-ec", script + forced) as tool:
        tool.ended()
    assert (4, 1) == (tool.code, tool.err.count("\n"))

    with run(shutil.which("unshare"), "-m", "sh", "-ec", script + " --explain") as tool:
        tool.ended()
    assert "bashreadline: command by uretprobe: No such file or directory\n" in tool.out


def test_chosen_files_that_will_not_do(run: Any, tmp_path: Path) -> None:
    """A file that is missing, or has no readline, is named in one line, with exit code 5."""
    for path in (tmp_path / "missing", tmp_path, Path("/bin/true"), Path("/etc/passwd")):
        with run("bashreadline", "-s", str(path)) as tool:
            tool.ended()
        assert (5, 1, "") == (tool.code, tool.err.count("\n"), tool.out)
        assert path.name in tool.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_stays(trace: Any, shell: Any, until: Any, number: signal.Signals) -> None:
    """The code of a shell is as it was when the tool has ended, in whatever way."""
    waiting = shell()
    assert not probed(waiting)
    tool = trace("bashreadline")
    assert probed(waiting)
    tool.end(number)
    until(lambda: not probed(waiting))
    waiting.type(b"#goes on")


def test_library_interface(shell: Any, until: Any, tmp_path: Path) -> None:
    """As a Python object the tool finds shells that start while it is iterated over."""
    import tracewheel

    path = str(shutil.copy(BASH, tmp_path / "bash"))
    found = []
    with tracewheel.bashreadline.trace(duration=LIMIT_S) as events:
        import threading

        starting = threading.Thread(target=lambda: found.append(typed_later(shell, path, until)))
        starting.start()
        lines = []
        for event in events:
            lines.append(event.command)
            if event.command == "#last":
                break
        starting.join()
        assert {} == events.losses()

    assert ["#first", "#last"] == lines


def typed_later(shell: Any, path: str, until: Any) -> Shell:
    """Start a shell, and type when it is traced."""
    started: Shell = shell(path, "--norc", "--noprofile", "-i")
    until(lambda: probed(started))
    started.type(b"#first", b"#last")
    return started
