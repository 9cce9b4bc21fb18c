# SPDX-License-Identifier: BSD-2-Clause
"""The frames of a program's stack have the names that its source gives them."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tracewheel
from tracewheel.runtime.host.symbols import KERNEL, Symbols, without_tracing

if TYPE_CHECKING:
    from collections.abc import Callable

PRIME = 7
# Opens without the C library, whose open() has no frame pointer that could be followed.
OPEN = r"""
#if defined(__x86_64__)
#define OPEN(path) ({ long ret; asm volatile("syscall" : "=a"(ret) : "0"(257), "D"(-100), \
	"S"(path), "d"(0) : "rcx", "r11", "memory"); ret; })
#else
#define OPEN(path) ({ register long number asm("x8") = 56, ret asm("x0") = -100; \
	register const char *at asm("x1") = path; register long flags asm("x2") = 0; \
	asm volatile("svc 0" : "+r"(ret) : "r"(number), "r"(at), "r"(flags) : "memory"); ret; })
#endif
#define WATCHED "/no/such/file"
#define FUNCTION __attribute__((noinline, noclone, visibility("default")))
"""
# Prints a line when it is ready, then opens a file for each line that it reads.
MAIN = r"""
#include <stdio.h>
int main(void)
{
	char line[16];

	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		outer();
		puts("done");
		fflush(stdout);
	}
	return 0;
}
"""
PLAIN = """
FUNCTION long inner_most(const char *path) { long ret = OPEN(path); return ret; }
FUNCTION long outer(void) { long ret = inner_most(WATCHED); return ret + 1; }
"""
# Without optimization, because a function that calls no other would have no frame.
FRAMES = ("-O0", "-fno-omit-frame-pointer")


class Program:
    """A program of ours at work, ended with the context."""

    def __init__(self, *command: str | Path, **settings: Any) -> None:
        self._process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, **settings,
        )  # fmt: skip
        self.pid = self._process.pid

    def __enter__(self) -> Program:
        assert "ready\n" == self.hear()
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()

    def hear(self) -> str:
        """Wait for a line of what the program says."""
        assert self._process.stdout
        return str(self._process.stdout.readline())

    def say(self, text: str) -> None:
        """Give the program text to read."""
        assert self._process.stdin
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def act(self) -> None:
        """Make the program open its file once, and wait until it has."""
        self.say("\n")
        assert "done\n" == self.hear()


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., Path]:
    """Give a function that compiles C, or C++ where the compiler says so."""

    def compile_source(
        source: str, *options: str | Path, compiler: str = "cc", name: str = "program"
    ) -> Path:
        if not shutil.which(compiler):
            pytest.skip(f"needs {compiler}")
        path = tmp_path / name
        language = "c++" if compiler == "c++" else "c"
        subprocess.run(
            [compiler, "-x", language, "-", "-x", "none", "-g0", "-o", path, *FRAMES, *options],
            input=OPEN + source, text=True, check=True,
        )  # fmt: skip
        return path

    return compile_source


@pytest.fixture
def stacks(trace: Any) -> Callable[..., list[list[str]]]:
    """Give a function that returns the stacks of a program's opens, without offsets."""

    def traced(*command: str | Path, tool: str = "opensnoop", **settings: Any) -> list[list[str]]:
        with Program(*command, **settings) as program:
            return stacks_of(trace, program)

    return traced


def stacks_of(trace: Any, program: Program, *options: str) -> list[list[str]]:
    """Return the stacks of some opens of a program, without offsets."""
    tool = trace("opensnoop", "-p", str(program.pid), "--stack", "--json", *options)
    for _ in range(PRIME):
        program.act()
    tool.end()
    stacks = [e["user_stack"] for e in tool.json if e["path"] == "/no/such/file"]
    # A run is skipped and counted if another one has been preempted on the same CPU.
    assert PRIME >= len(stacks) >= PRIME - tool.skipped
    assert stacks
    return [[frame.rpartition("+")[0] for frame in stack] for stack in stacks]


@pytest.mark.parametrize("pie", ["-pie", "-no-pie", "-static", "-static-pie"])
def test_every_rung_names_functions(
    trace: Any, compiled: Callable[..., Path], rungs_of: Any, pie: str
) -> None:
    """A program shows who called whom, wherever it is loaded, on every way of tracing."""
    path = compiled(PLAIN + MAIN, pie, "-fPIE" if "pie" in pie and "no" not in pie else "-fno-pie")
    for rung in rungs_of("opensnoop", "open"):
        with Program(path) as program:
            for stack in stacks_of(trace, program, "--rung", f"open={rung}"):
                assert ["inner_most", "outer", "main"] == stack[:3]


def test_without_frame_pointers(stacks: Any, compiled: Callable[..., Path]) -> None:
    """If the callers cannot be found, the innermost function is still named."""
    path = compiled(PLAIN + MAIN, "-fomit-frame-pointer")
    for stack in stacks(path):
        assert "inner_most" == stack[0]


def test_a_call_that_never_returns(stacks: Any, compiled: Callable[..., Path]) -> None:
    """A function that ends with such a call is named, not the one behind it."""
    source = """
    FUNCTION void leave(void) { OPEN(WATCHED); __builtin_longjmp(buffer, 1); }
    FUNCTION void last_call(void) { leave(); __builtin_unreachable(); }
    FUNCTION void outer(void) { if (!__builtin_setjmp(buffer)) last_call(); }
    """
    path = compiled("static void *buffer[5];" + source + MAIN, "-falign-functions=32")
    for stack in stacks(path):
        assert ["leave", "last_call", "outer", "main"] == stack[:4]


def test_shared_library(stacks: Any, compiled: Callable[..., Path], tmp_path: Path) -> None:
    """Functions of a library are named from the library's file."""
    library = compiled(PLAIN, "-shared", "-fPIC", name="libours.so")
    path = compiled("long outer(void);" + MAIN, library, f"-Wl,-rpath,{tmp_path}")
    for stack in stacks(path):
        assert ["inner_most", "outer", "main"] == stack[:3]


def test_library_loaded_later(trace: Any, compiled: Callable[..., Path], tmp_path: Path) -> None:
    """A library that a process maps later is found as well."""
    library = compiled(PLAIN.replace("outer", "plugged"), "-shared", "-fPIC", name="libours.so")
    loader = """
    #include <dlfcn.h>
    FUNCTION void outer(void)
    {
        static void (*plugged)(void);

        OPEN("/before");
        if (!plugged)
            plugged = (void (*)(void))dlsym(dlopen(LIBRARY, RTLD_NOW), "plugged");
        plugged();
    }
    """
    path = compiled(loader + MAIN, f'-DLIBRARY="{library}"', "-ldl")
    with Program(path) as program:
        for stack in stacks_of(trace, program):
            assert ["inner_most", "plugged", "outer", "main"] == stack[:4]


CPP = """
namespace house { template <class T> struct Door {
    FUNCTION long open(const char *path, T) { long ret = OPEN(path); return ret; } }; }
FUNCTION long outer() { house::Door<int> d; long ret = d.open(WATCHED, 1); return ret; }
"""


def test_cpp(stacks: Any, compiled: Callable[..., Path]) -> None:
    """C++ names are as in the source."""
    path = compiled(CPP + MAIN, "-fno-ipa-sra", compiler="c++")
    for stack in stacks(path):
        assert ["house::Door<int>::open(char const*, int)", "outer()", "main"] == stack[:3]


RUST = """
FUNCTION long inner_most(const char *) __asm__("_RNvMNtC7program5houseNtB2_4Door4open");
FUNCTION long outer(void) __asm__("_RNvCs6xxl1lAjzDf_7program5outer.llvm.17");
long inner_most(const char *path) { long ret = OPEN(path); return ret; }
long outer(void) { long ret = inner_most(WATCHED); return ret + 1; }
"""


def test_rust_in_stacks(stacks: Any, compiled: Callable[..., Path]) -> None:
    """The frames of a program that has the symbols of one in Rust are as in its source."""
    for stack in stacks(compiled(RUST + MAIN)):
        assert ["<program::house::Door>::open", "program::outer", "main"] == stack[:3]


@pytest.mark.parametrize("mangling", ["legacy", "v0"])
def test_rust(stacks: Any, tmp_path: Path, mangling: str) -> None:
    """Rust names are as in the source, without the hash."""
    if not shutil.which("rustc"):
        pytest.skip("needs rustc")
    source = tmp_path / "program.rs"
    source.write_text("""
    mod house { pub struct Door; pub trait Opens { fn open(&self) -> bool; }
        impl Opens for Door { #[inline(never)] fn open(&self) -> bool { true } } }
    fn main() {
        use house::Opens;
        println!("ready");
        std::io::stdin().lines().for_each(|_| assert!(house::Door.open()));
    }
    """)
    path = tmp_path / "program"
    options = ["-Zunstable-options", f"-Csymbol-mangling-version={mangling}"]
    settings = {**os.environ, "RUSTC_BOOTSTRAP": "1"}  # for options that are not stable
    subprocess.run(["rustc", *options, "-o", path, source], env=settings, check=True)
    with Program(path) as program:
        names = names_in(program.pid, path.name)

    assert "<program::house::Door as program::house::Opens>::open" in names
    assert "program::main" in names


def test_deleted_program(trace: Any, compiled: Callable[..., Path]) -> None:
    """A program whose file is gone is named from the file that it runs."""
    path = compiled(PLAIN + MAIN)
    with Program(path) as program:
        path.unlink()
        compiled(PLAIN.replace("inner_most", "impostor") + MAIN)
        for stack in stacks_of(trace, program):
            assert ["inner_most", "outer", "main"] == stack[:3]


def test_other_mount_namespace(trace: Any, compiled: Callable[..., Path], tmp_path: Path) -> None:
    """A program whose path leads elsewhere here is named from the file that it runs."""
    there = tmp_path / "there"
    there.mkdir()
    path = compiled(PLAIN + MAIN)
    script = f"""
    mount -t tmpfs tmpfs {there} && cp {path} {there}/inside && exec {there}/inside
    """
    shutil.copy("/bin/true", there / "inside")
    with Program("unshare", "--mount", "sh", "-c", script) as program:
        for stack in stacks_of(trace, program):
            assert ["inner_most", "outer", "main"] == stack[:3]


@pytest.mark.parametrize("way", ["build id", "link", "link by checksum"])
def test_separate_debug_file(
    trace: Any, compiled: Callable[..., Path], tmp_path: Path, way: str
) -> None:
    """A stripped program is named from its debug file, if root keeps it."""
    build_id = "none" if way == "link by checksum" else "0x1122334455667788"
    path = compiled(PLAIN + MAIN, f"-Wl,--build-id={build_id}")
    debug = tmp_path / "program.debug"
    subprocess.run(["objcopy", "--only-keep-debug", path, debug], check=True)
    subprocess.run(["strip", path], check=True)
    place = Path("/usr/lib/debug/.build-id/11/22334455667788.debug")
    if way != "build id":
        subprocess.run(["objcopy", f"--add-gnu-debuglink={debug}", path], check=True)
        place = Path(f"/usr/lib/debug{debug}")
    # In a mount namespace of its own, because other programs look there as well.
    script = f"""
    mkdir -p /usr/lib/debug && mount -t tmpfs -o mode=755 tmpfs /usr/lib/debug &&
    mkdir -p {place.parent} && cp {debug} {place} && chmod $1 {place} && shift && exec "$@"
    """
    opensnoop = str(Path(sys.executable).parent / "opensnoop")
    found = []
    with Program(path) as program:
        for mode in ("644", "666"):
            command = (str(shutil.which("unshare")), "--mount", "sh", "-c", script, "sh", mode)
            tool = trace(*command, opensnoop, "-p", str(program.pid), "--stack", "--json")
            program.act()
            tool.end()
            (stack,) = [e["user_stack"] for e in tool.json if e["path"] == "/no/such/file"]
            found.append([frame.rpartition("+")[0] for frame in stack[:3]])

    assert [["inner_most", "outer", "main"], ["[program"] * 3] == found


def test_unnamed(compiled: Callable[..., Path]) -> None:
    """An address without a name is shown as a place in a file, or as a number."""
    path = compiled(PLAIN + MAIN, "-no-pie", "-fno-pie")
    address = address_of(path, "inner_most")
    subprocess.run(["strip", path], check=True)
    with Program(path) as program:
        symbols = Symbols()
        addresses, offset = executable_mapping(program.pid, "program")
        place = address - addresses.start + offset

        assert f"[program+{place:#x}]" == symbols.name(program.pid, address)
        assert "[unknown+0x10]" == symbols.name(program.pid, 0x10)
        assert f"[unknown+{2**64 - 1:#x}]" == symbols.name(program.pid, 2**64 - 1)


def address_of(path: Path, name: str) -> int:
    """Return the address of a function in a file."""
    listed = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
    (address,) = [line.split()[0] for line in listed.splitlines() if line.endswith(f" {name}")]
    return int(address, 16)


def executable_mapping(pid: int, name: str) -> tuple[range, int]:
    """Return the addresses of the mapping whose path ends so, and its offset in the file."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        area, access, offset, *_ = line.split()
        if "x" in access and line.endswith(name):
            start, end = (int(part, 16) for part in area.split("-"))
            return range(start, end), int(offset, 16)
    raise AssertionError(name)


def names_in(pid: int, name: str) -> set[str]:
    """Return the names of all functions in a mapping."""
    symbols = Symbols()
    addresses, _ = executable_mapping(pid, name)
    return {symbols.name(pid, address, offset=False) for address in addresses[::16]}


def test_ended_process(compiled: Callable[..., Path]) -> None:
    """A process that was looked at keeps its names when it has ended; any other has none."""
    path = compiled(PLAIN + MAIN, "-no-pie", "-fno-pie")
    address = address_of(path, "inner_most")
    known, unknown = Symbols(), Symbols()
    with Program(path) as program:
        known.learn(program.pid)

    assert "inner_most+0x3" == known.name(program.pid, address + 3)
    assert "inner_most" == known.name(program.pid, address, offset=False)
    assert f"[unknown+{address:#x}]" == unknown.name(program.pid, address)


def test_process_that_executes_another(
    compiled: Callable[..., Path], until: Callable[[Callable[[], bool]], None]
) -> None:
    """After an exec the same address has the new program's name."""
    execute = """
    #include <unistd.h>
    FUNCTION void outer(void) { OPEN(WATCHED); execl(NEXT, NEXT, (char *)0); }
    """
    second = compiled(PLAIN + MAIN, "-no-pie", "-fno-pie", name="second")
    first = compiled(execute + MAIN, "-no-pie", "-fno-pie", f'-DNEXT="{second}"', name="first")
    address = address_of(first, "outer")
    symbols = Symbols()
    with Program(first) as program:
        assert "outer+0x0" == symbols.name(program.pid, address)
        expected = subprocess.run(
            ["addr2line", "-f", "-e", second, hex(address)], capture_output=True, text=True
        ).stdout.split("\n")[0]
        program.say("\n")
        assert "ready\n" == program.hear()
        until(lambda: symbols.name(program.pid, address, offset=False) == expected)

        assert "outer" != expected


JIT = r"""
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
FUNCTION long inner_most(const char *path) { long ret = OPEN(path); return ret; }
static long (*made)(const char *);
FUNCTION long outer(void) { long ret = made(WATCHED); return ret + 1; }
__attribute__((constructor)) static void make(void)
{
	char name[64];
	FILE *map;

	made = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy((void *)made, (void *)inner_most, 256);
	__builtin___clear_cache((char *)made, (char *)made + 256);
	snprintf(name, sizeof(name), "/tmp/perf-%d.map", getpid());
	map = fopen(name, "w");
	fprintf(map, "junk\n\n%lx 100 Class::method(int) [tier 1]\nzz 1 x\n1 2", (long)made);
	fclose(map);
}
"""


def test_compiled_at_run_time(trace: Any, compiled: Callable[..., Path], tmp_path: Path) -> None:
    """Code that a program has generated is named from its perf-PID.map, by the pid it sees."""
    path = compiled("#include <stdio.h>\n" + JIT + MAIN)
    script = f"mount --bind {tmp_path} /tmp && exec /tmp/{path.name}"
    inside = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script)
    with Program(*inside) as program:
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text()
        program.pid = int(children)
        for stack in stacks_of(trace, program):
            assert ["Class::method(int) [tier 1]", "outer", "main"] == stack[:3]


@pytest.mark.parametrize("how", ["good", "other owner", "link", "fifo", "folder", "not there"])
def test_untrusted_tale_of_code(compiled: Callable[..., Path], how: str) -> None:
    """A perf-PID.map is only read if it is a file of the process's user; a pipe does not block."""
    path = compiled("#include <stdio.h>\n" + JIT + MAIN)
    with Program(path) as program:
        told = Path(f"/tmp/perf-{program.pid}.map")
        address = int(told.read_text().split()[1], 16)
        kept = told.rename(path.parent / "told")
        if how == "link":
            told.symlink_to(kept)
        elif how == "fifo":
            os.mkfifo(told)
        elif how == "folder":
            told.mkdir()
        elif how != "not there":
            shutil.copy(kept, told)
            os.chown(told, 65534 if how == "other owner" else 0, -1)
        shown = Symbols().name(program.pid, address + 1)
        if how == "folder":
            told.rmdir()
        told.unlink(missing_ok=True)

    assert ("Class::method(int) [tier 1]+0x1" if how == "good" else "[anon+0x1]") == shown


def test_hostile_names(
    trace: Any, compiled: Callable[..., Path], unescape: Callable[[str], bytes]
) -> None:
    """A name that would move a cursor is shown escaped, on one line."""
    hostile = b"\x1b[2A\n\t\xff\\\xc2\x9b"
    assert len("inner_most") == len(hostile)
    path = compiled(PLAIN + MAIN)
    path.write_bytes(path.read_bytes().replace(b"inner_most", hostile))
    with Program(path) as program:
        watched = ("-p", str(program.pid), "--stack", "--path", "/no/such/file")
        tools = [trace("opensnoop", *watched, "--columns", "path,user_stack"),
                 trace("opensnoop", *watched, "--json")]  # fmt: skip
        program.act()
        for tool in tools:
            tool.end()
    lines = tools[0].out.split("\n")
    (event,) = tools[1].json

    assert "/no/such/file" == lines[1].rstrip()
    assert hostile == unescape(lines[2].strip()).rpartition(b"+")[0]
    assert all(line.isprintable() for line in lines)
    assert hostile.decode(errors="replace") == event["user_stack"][0].rpartition("+")[0]
    assert tools[1].out.replace("\n", "").isprintable()


def test_vdso() -> None:
    """The vDSO, which the kernel maps into each process, has names."""
    assert [name for name in names_in(os.getpid(), "[vdso]") if "clock_gettime" in name]


def bpf_programs() -> set[tuple[str, int]]:
    """Return the names and addresses of the BPF programs that are loaded."""
    lines = Path("/proc/kallsyms").read_text().splitlines()
    found = [line.split() for line in lines if line.endswith("[bpf]")]
    return {(words[2], int(words[0], 16)) for words in found if words[2].startswith("bpf_prog_")}


def test_kernel() -> None:
    """A kernel address has the name that kallsyms gives it."""
    with open("/proc/kallsyms") as lines:
        listed = [line.split() for line in lines]
    address = next(int(line[0], 16) for line in listed if line[2] == "vfs_read")
    if not address:
        pytest.skip("needs to see kernel addresses")
    symbols = Symbols()

    assert "vfs_read+0x5" == symbols.name(KERNEL, address + 5)
    assert "vfs_read" == symbols.name(KERNEL, address + 5, offset=False)
    assert "[unknown+0x10]" == symbols.name(KERNEL, 0x10, offset=False)


def test_bpf_program_loaded_later(trace: Any, until: Any) -> None:
    """A BPF program that was loaded after the first lookup has its own name, too."""
    symbols = Symbols()
    symbols.name(KERNEL, 1)
    before = bpf_programs()
    trace("execsnoop")
    new = bpf_programs() - before

    def is_named(name: str, address: int) -> bool:
        # Somebody else's program may be gone meanwhile.
        is_gone = (name, address) not in bpf_programs()
        return is_gone or symbols.name(KERNEL, address + 4) == f"{name}+0x4"

    assert new
    for program in new:
        until(functools.partial(is_named, *program))
    assert new & bpf_programs()


def test_library_has_names(compiled: Callable[..., Path]) -> None:
    """The records that Python code is given have the same names."""
    if os.geteuid():
        pytest.skip("needs root")
    path = compiled(PLAIN + MAIN)
    with Program(path) as program, tracewheel.opensnoop.trace(pid=program.pid, stack=True) as seen:
        program.act()
        event = next(event for event in seen if event.path == "/no/such/file")

    assert ["inner_most", "outer", "main"] == [f.split("+")[0] for f in event.user_stack[:3]]
    assert event.stack


OF_EVENT = ["do_sys_openat2+0x5", "bpf_trampoline_30941_0+0x33", "bpf_prog_load", "entry_SYSCALL"]


@pytest.mark.parametrize(
    "own",
    [
        [],
        ["bpf_prog_45734329d95f2596_open__fexit+0x3ef", "bpf_trampoline_6442519942+0x4d"],
        ["[unknown+0xffffffffc0000000]", "bpf_trace_run2", "__bpf_trace_x", "__traceiter_x"],
        ["bpf_prog_45734329d95f2596_f", "bpf_trace_run2+0x86",
         "syscall_exit_to_user_mode_prepare+0x112", "syscall_exit_to_user_mode+0x10"],
    ],
)  # fmt: skip
def test_frames_of_the_tracing(own: list[str]) -> None:
    """Frames of the tracing are left out at the inner end of a stack, and nowhere else."""
    assert OF_EVENT == without_tracing([*own, *OF_EVENT])
    for begin in range(1, len(OF_EVENT)):
        rest = ["bpf_prog_load", *OF_EVENT[begin:]]
        assert rest == without_tracing([*own, *rest])


def test_frames_without_names() -> None:
    """If no frame has a name, for example without kallsyms, every frame is shown."""
    nameless = ["[unknown+0x1]", "[unknown+0x2]"]
    assert nameless == without_tracing(nameless)
