# SPDX-License-Identifier: BSD-2-Clause
"""Feed the shim with what a fuzzer thinks of, under the sanitizers of addresses and of behaviour.

Each target runs in a process of its own, all at the same time. The corpus is kept in build/fuzz, so
that the next run goes on where this one has ended. An input that fails is kept there, too, and
shown: give it to the target's program to see the failure again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
SHIM = REPOSITORY / "libbpf_shim"
WORK = REPOSITORY / "build/fuzz"
COMPILE = [
    *("clang", "-g", "-O1", "-Wall", "-Wextra", "-Werror"),
    *("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"),
    *("-fprofile-instr-generate", "-fcoverage-mapping"),
    *("-I", str(SHIM), "-I", str(REPOSITORY / "build/shim")),
]
INPUT_TIME_LIMIT = 10  # seconds for one input; what takes longer has failed


class Target(NamedTuple):
    """A source file of the shim; tests/fuzz has the target of the same name."""

    name: str
    size_limit: int  # of one input, in bytes
    elsewhere: frozenset[str] = frozenset()  # functions that no bytes of others reach


# These wait for descriptors: tests/shim has tests of them.
WAITING = frozenset({"shim_wait", "shim_write", "now_ms", "deadline_in", "ms_until"})
TARGETS = (
    Target("elf", 16384),
    Target("render", 4096),
    Target("ring", 8192, WAITING),
)


def main() -> int:
    """Parse the command line, fuzz, and return 1 if any target failed."""
    parser = argparse.ArgumentParser(description=__doc__, usage="./dev fuzz [SECONDS]")
    parser.add_argument("seconds", nargs="?", type=int, default=30, help="default: 30")
    seconds = parser.parse_args().seconds
    WORK.mkdir(parents=True, exist_ok=True)
    for target in TARGETS:
        build(target)
        write_seeds(target)
    running = [start(target, seconds) for target in TARGETS]
    statuses = [fuzzer.wait() for fuzzer in running]
    results = [report(*each) for each in zip(TARGETS, statuses)]
    return int(not all(results))


def build(target: Target) -> None:
    """Compile a target with the part of the shim that it feeds."""
    name = f"{target.name}.c"
    sources = [str(HERE / name), str(SHIM / name)]
    output = ["-lelf", "-o", str(WORK / target.name)]
    subprocess.run([*COMPILE, *sources, *output], check=True)


def start(target: Target, seconds: int) -> subprocess.Popen[bytes]:
    """Start a target; what it says goes to a file."""
    options = {
        "max_total_time": seconds,
        "max_len": target.size_limit,
        "timeout": INPUT_TIME_LIMIT,
        "print_final_stats": 1,
        "artifact_prefix": f"{WORK / target.name}-failed-",
    }
    command = [
        str(WORK / target.name),
        *(f"-{name}={value}" for name, value in options.items()),
        str(corpus(target)),
    ]
    environment = {**os.environ, "LLVM_PROFILE_FILE": str(profile(target))}
    with open(log(target), "wb") as said:
        return subprocess.Popen(command, stdout=said, stderr=said, env=environment)


def report(target: Target, status: int) -> bool:
    """Say in a line how a target did, and all that it said if it failed."""
    said = log(target).read_text(errors="replace")
    if status:
        print(f"{said}{target.name}: FAILED ({status})")
        return False
    inputs = re.findall(r"number_of_executed_units: (\d+)", said)[0]
    lines, missed = coverage(target)
    print(f"{target.name}: {inputs} inputs ran {lines:.0f} % of the lines of {target.name}.c")
    if missed:
        print(f"{target.name}: FAILED: never called: {', '.join(sorted(missed))}")
    return not missed


def coverage(target: Target) -> tuple[float, set[str]]:
    """Return which part of the shim's lines ran, and the functions that should have and did not."""
    merged = WORK / f"{target.name}.profdata"
    subprocess.run(["llvm-profdata", "merge", "-o", merged, profile(target)], check=True)
    source = str(SHIM / f"{target.name}.c")
    command = ["llvm-cov", "export", f"-instr-profile={merged}", str(WORK / target.name), source]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    (found,) = json.loads(done.stdout)["data"]
    functions = [each for each in found["functions"] if source in each["filenames"]]
    missed = {each["name"].split(":")[-1] for each in functions if not each["count"]}
    return found["files"][0]["summary"]["lines"]["percent"], missed - target.elsewhere


def corpus(target: Target) -> Path:
    """Return the folder of inputs that have reached something new."""
    return WORK / f"{target.name}-corpus"


def log(target: Target) -> Path:
    """Return the file that has what a target said."""
    return WORK / f"{target.name}.log"


def profile(target: Target) -> Path:
    """Return the file that has how often each part of the code ran."""
    return WORK / f"{target.name}.profraw"


def write_seeds(target: Target) -> None:
    """Write inputs to begin with; the fuzzer makes all others of them."""
    seeds = SEEDS[target.name]()
    assert all(len(seed) <= target.size_limit for seed in seeds), "they would be cut"
    corpus(target).mkdir(exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus(target) / f"seed-{number}").write_bytes(seed)


def elf_seeds() -> list[bytes]:
    """Make a small library with the name of a debug file, and some lines."""
    library = WORK / "seed.so"
    source = "int _Z5firstv(void) { return 1; } int second(void) { return 2; }"
    flags = ["-shared", "-fPIC", "-nostdlib", "-Wl,--build-id=0x12345678"]
    command = ["cc", "-x", "c", "-", *flags, "-Wl,-z,noseparate-code", "-o", str(library)]
    subprocess.run(command, input=source, text=True, check=True)
    subprocess.run(["objcopy", f"--add-gnu-debuglink={library}", str(library)], check=True)
    content = library.read_bytes()
    lines = b"1000 10 first\n2000 20 _ZN5house4doorEiPKc\n"
    symbols = b"1000 T first\n2000 t second\t[module]\n3000 D data\n"
    return [b"\0" + content, b"\1" + lines, b"\2" + symbols]


def render_seeds() -> list[bytes]:
    """Make a batch for each kind of column, as a table and as JSON."""
    text = b"/usr/\xc3\xa4\0with blank\0\xff"
    part = b"\0\0\0\0" + len(text).to_bytes(2, "little")
    records = []
    for state in range(4):  # of the part that a text, a path or a stack is
        least = (1 << 63).to_bytes(8, "little")
        fixed = (part + state.to_bytes(2, "little")) * 2 + bytes(32) + b"\xff" * 8 + least
        records.append(fixed + text)
    batch = b"".join(len(r).to_bytes(8, "little") + r + b"\0" * (-len(r) % 8) for r in records)
    seeds = []
    for kind in range(number_of_kinds()):
        for form in range(8):
            for offset in (0, 48, 56):
                column = bytes([kind, 3, 20, offset, 8])
                head = bytes([form, 0, 1, 0]) + column
                seeds.append(head + bytes(16) + batch)
    return seeds


def number_of_kinds() -> int:
    """Count the kinds of columns."""
    kinds = (SHIM / "shim.h").read_text().partition("enum shim_kind {")[2].partition("}")[0]
    return len(re.findall(r"SHIM_\w+,", kinds))


def ring_seeds() -> list[bytes]:
    """Make records of each state, and noise."""
    records = b"".join(bytes([state]) + b"\x15\0" + b"x" * 21 for state in (0, 1, 0, 2, 0))
    begin_and_room = b"\xfe\1\x40"  # 16 bytes before the end of the ring
    return [b"\0" + begin_and_room + records, b"\1\0\0\x40\0\x40\0" + bytes(64)]


SEEDS = {"elf": elf_seeds, "render": render_seeds, "ring": ring_seeds}

if __name__ == "__main__":
    sys.exit(main())
