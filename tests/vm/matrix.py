# SPDX-License-Identifier: BSD-2-Clause
"""Run pytest under every kernel, as many at a time as there are CPUs.

With --ci tests that are the same for every tool run for one tool of each shape. All other tests run
on the oldest and on the newest kernel, and on those between them only what pytest's marker
"each_kernel" chooses. The tests beside other people's tools run, too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from kernels import SUITES, fetch_headers
from machine import HERE, REPOSITORY

# All guests, two at a time on two CPUs, take some 50 minutes.
TIMEOUT = 55 * 60

# No kernel changes what these say; ./dev test runs them.
ELSEWHERE = (
    "tests/browser",
    "tests/contract/test_files.py",
    "tests/contract/test_static.py",
    "tests/faults/test_bad_input.py",
    "tests/faults/test_bounds.py",
    "tests/faults/test_life.py",
    "tests/faults/test_package.py",
    "tests/runtime",
    "tests/shim",
    "tests/contract/test_copies.py",
    "tests/contract/test_losses.py",
)
# These have a guest of their own.
TESTS_OF_PEERS = "tests/tools/peers"
SOME_TESTS_OF_PEERS = f"{TESTS_OF_PEERS}/test_peers.py"  # all take half an hour: bcc compiles
# With what their names begin with.
PARTLY_ELSEWHERE = {
    "tests/contract/test_containers.py": (
        "test_any_component", "test_candidates", "test_files_of_others", "test_ids", "test_names",
        "test_units_and_machines", "test_unknown",
    ),
    "tests/contract/test_library.py": (
        "test_duration_ends_a_flood", "test_reports_without_interval", "test_wrong_uses",
    ),
    "tests/contract/test_live.py": (
        "test_duration_ends_in_time", "test_reader_that_leaves_ends_it_quietly",
        "test_signals_end_with_the_report",
    ),
    "tests/contract/test_targets.py": (
        "test_command", "test_ctrl_c_is_the_commands", "test_failing_tool_starts_no_command",
        "test_proc_of_another_namespace", "test_signals_reach_the_command", "test_usage",
    ),
    "tests/contract/test_types.py": ("test_checkers", "test_parameters", "test_stubs"),
    "tests/faults/test_hostile.py": (
        "test_filter_by_a_hostile_name", "test_globs_with_the_letters_of_other_patterns",
        "test_names_of_processes", "test_paths_in_json", "test_paths_in_a_table",
        "test_programs_with_hostile_names",
    ),
    "tests/faults/test_loss.py": ("test_output_that_nobody_reads", "test_slow_reader"),
    "tests/faults/test_surroundings.py": (
        "test_doctor_lists_all_ways", "test_help_ignores_the_terminal", "test_locale_and_terminal",
        "test_read_only_files",
        "test_without_types",
    ),
    "tests/tools/test_biolatency.py": ("test_milliseconds",),
    "tests/tools/test_bitesize.py": ("test_filters", "test_table"),
    "tests/tools/test_capable.py": (
        "test_fragments", "test_names_of_options", "test_no_system_call", "test_wrong_arguments",
    ),
    "tests/tools/test_killsnoop.py": (
        "test_filters", "test_names_of_codes", "test_names_of_signals", "test_threads",
        "test_what_is_not_allowed", "test_wrong_signals",
    ),
    "tests/tools/test_gethostlatency.py": ("test_chosen_files", "test_filters"),
    "tests/tools/test_offcputime.py": (
        "test_languages", "test_pictures", "test_text_and_folded_lines",
    ),
    "tests/tools/test_oomkill.py": ("test_table",),
    "tests/tools/test_opensnoop.py": ("test_flag_without_bits_is_refused",),
    "tests/tools/test_statsnoop.py": ("test_columns", "test_filters", "test_small_ring"),
    "tests/tools/test_syncsnoop.py": ("test_filters_and_counts", "test_small_ring"),
    "tests/tools/test_tcpaccept.py": ("test_filters", "test_library", "test_table"),
    "tests/tools/test_tcpconnect.py": (
        "test_columns_stay_aligned", "test_filters", "test_usual_rows_fit_a_terminal",
    ),
    "tests/tools/test_writeback.py": (
        "test_columns", "test_flusher", "test_least_time", "test_sums_without_room",
        "test_table_is_per_interval",
    ),
    "tests/tools/test_tcpretrans.py": (
        "test_counts", "test_filters", "test_kernels_own_counts", "test_owner_that_is_not_known",
        "test_table",
    ),
    "tests/tools/test_tcpdrop.py": ("test_filters_and_sums", "test_tables_and_pictures"),
}  # fmt: skip
LEFT_OUT = [
    *(f"--ignore={path}" for path in (*ELSEWHERE, TESTS_OF_PEERS)),
    *(f"--deselect={path}::{test}" for path, tests in PARTLY_ELSEWHERE.items() for test in tests),
]

# Starts every tool several times, so that one kernel beside the host has to do.
GUIDE, WITH_GUIDE = "tests/contract/test_guide.py", "6.12"

# Where tests compare the tools with others, which work there.
WITH_PEERS = "6.1"
INSTALL_PEERS = "from bench import peers; print(peers.install().root)"

# What CI leaves to the oldest and the newest kernel: all but the tests so marked by conftest.py.
OLDEST, *_, NEWEST = SUITES
EACH_KERNEL = ["-m", "each_kernel"]
ONLY_REPRESENTATIVES = "TRACEWHEEL_ONLY_REPRESENTATIVES=1"  # see conftest.py

# Where tests may take a CPU away: in one more guest, of that kernel and of two CPUs. QEMU is less
# reliable with two, so that no other tests run there.
WITH_TWO_CPUS = "6.12"
OF_TWO_CPUS = ["tests/tools/test_cpuwalk.py", "-k", "online or offline or asked_for"]

# Where many CPUs are possible, that never come: what is kept for each of them makes tests slower.
WITH_MANY_CPUS, MANY_CPUS = "6.12", 126

# An emulated CPU that its host takes away for seconds can fail a test that waits. What fails is
# run once more, alone, in the same guest, and both runs are shown; what fails twice has failed.
TEST = """
pytest() { .venv/bin/python -m pytest -o cache_dir=/tmp/pytest-cache "$@"; }
pytest "$@" || { echo "once more, what failed:"; pytest --last-failed "$@"; }
"""


def main() -> int:
    """Parse the command line, test, and return 1 if any kernel failed."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        usage="./dev vm test [--kernel K] [--ci | --peers] [PYTEST ARGUMENTS]",
        allow_abbrev=False,
    )
    parser.add_argument("--kernel", action="append", choices=SUITES, help="may be repeated")
    parser.add_argument("--ci", action="store_true", help="run what each change has to pass")
    parser.add_argument("--peers", action="store_true", help="run the tests beside other tools")
    options, pytest_arguments = parser.parse_known_args()
    guests = choose_guests(options, pytest_arguments)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = list(pool.map(test, guests))
    for guest, (status, closing) in zip(guests, results):
        print(f"Linux {guest.name}: {'passed' if status == 0 else f'FAILED ({status})'}\n{closing}")
    return int(any(status for status, _ in results))


def choose_guests(options: argparse.Namespace, pytest_arguments: list[str]) -> list[Guest]:
    """Return the guests to test in, those that take longest first."""
    with_peers = SOME_TESTS_OF_PEERS if options.ci else TESTS_OF_PEERS
    peers = Guest(f"{WITH_PEERS}, peers", WITH_PEERS, 1, [with_peers, *pytest_arguments])
    if options.peers:
        return [peers]
    guests = [
        Guest(kernel, kernel, 1, [*LEFT_OUT, *left_to(kernel), *pytest_arguments])
        for kernel in options.kernel or SUITES
    ]
    if options.ci:
        guests = [choose_for_ci(guest) for guest in guests]
        guests.sort(key=lambda guest: guest.kernel not in (OLDEST, NEWEST))
    if options.ci and not options.kernel:
        guests.append(peers)
    if not options.kernel and not pytest_arguments:
        guests.append(Guest(f"{WITH_TWO_CPUS}, 2 CPUs", WITH_TWO_CPUS, 2, OF_TWO_CPUS))
    return guests


def left_to(kernel: str) -> list[str]:
    """Return the arguments that leave out what another kernel has to do."""
    return [] if kernel == WITH_GUIDE else [f"--ignore={GUIDE}"]


def choose_for_ci(guest: Guest) -> Guest:
    """Return the guest with fewer tests: see the top of this file."""
    some = [] if guest.kernel in (OLDEST, NEWEST) else EACH_KERNEL
    arguments = [*guest.pytest_arguments, *some]
    return guest._replace(pytest_arguments=arguments, only_representatives=True)


class Guest(NamedTuple):
    """Where to run pytest, and with what arguments."""

    name: str
    kernel: str
    cpus: int
    pytest_arguments: list[str]
    only_representatives: bool = False  # of tools, in tests of what the runtime does for all


def test(guest: Guest) -> tuple[int, str]:
    """Return pytest's exit status and closing line, showing each line as it comes."""
    command = [
        *(sys.executable, "-B", str(HERE / "machine.py")),
        *("--kernel", guest.kernel, "--cpus", str(guest.cpus), "--timeout", str(TIMEOUT)),
        *("--spare", str(MANY_CPUS if guest.kernel == WITH_MANY_CPUS else 2), "--"),
        *("env", *peers(guest), *([ONLY_REPRESENTATIVES] if guest.only_representatives else [])),
        *("sh", "-c", TEST, "sh", *guest.pytest_arguments),
    ]
    closing = ""
    with subprocess.Popen(
        command, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as machine:
        assert machine.stdout
        for line in machine.stdout:
            print(f"[{guest.name}] {line}", end="", flush=True)
            if line.startswith("="):
                closing = line.rstrip()
    return machine.returncode, closing


def peers(guest: Guest) -> list[str]:
    """Return the variables that tell where the other tools are, if that guest is to have them."""
    is_beside_peers = any(each.startswith(TESTS_OF_PEERS) for each in guest.pytest_arguments)
    return install_peers(guest.kernel) if is_beside_peers else []


def install_peers(kernel: str) -> list[str]:
    """Install the other tools, if they are not; return the variables that tell where they are."""
    install = [sys.executable, "-B", "-c", INSTALL_PEERS]
    done = subprocess.run(install, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, check=True)
    root = done.stdout.splitlines()[-1]
    return [f"TRACEWHEEL_PEERS={root}", f"BCC_KERNEL_SOURCE={fetch_headers(kernel)}"]


if __name__ == "__main__":
    sys.exit(main())
