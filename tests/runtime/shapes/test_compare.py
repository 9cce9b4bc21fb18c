# SPDX-License-Identifier: BSD-2-Clause
"""Histograms are compared with others and with limits."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracewheel.runtime.host.errors import UsageError
from tracewheel.runtime.shapes import compare
from tracewheel.runtime.spec.alerts import parse_baseline, parse_condition
from tracewheel.runtime.spec.catalogue import load_tool
from tracewheel.runtime.spec.distribution import Histogram
from tracewheel.runtime.spec.request import Request

# 96 values from 8 to 9 us, 3 from 64 to 72, 1 from 1024 to 1152.
SLOTS = {16 + 8 * 9: 96, 16 + 8 * 12: 3, 16 + 8 * 16: 1}
USUAL = Histogram({}, "usecs", SLOTS)
slots = st.dictionaries(st.integers(0, 495), st.integers(1, 10**6), min_size=1, max_size=20)


def request(**values: Any) -> Request:
    """Return what options of runqlat ask for."""
    return Request(load_tool("runqlat")[0], values)


@pytest.mark.parametrize(
    ("claim", "is_true"),
    [
        ("p50>8us", True),
        ("p50>9us", False),
        ("p50 < 9 us", True),
        ("p50>=8500ns", True),
        ("p50<=8499ns", False),
        ("p90<0.009ms", True),
        ("p97>60us", True),
        ("p99>0.0001s", False),
        ("p99.9>1ms", True),
        ("p99.9>2ms", False),
        ("max>=1ms", True),
        ("max>1s", False),
        ("count>99", True),
        ("count>100", False),
        ("count<=100", True),
        ("avg>22us", True),
        ("avg<22us", False),
    ],
)
def test_claims(claim: str, is_true: bool) -> None:
    """A condition is true or false, in each unit of the histogram."""
    condition = parse_condition(claim)

    assert is_true == condition.is_true(USUAL._replace(sum=2300.0))


def test_claims_in_milliseconds() -> None:
    """With -m the same condition has the same limit."""
    in_msecs = USUAL._replace(unit="msecs")

    assert parse_condition("p50>=8500us").is_true(in_msecs)
    assert not parse_condition("p50>8500000ns").is_true(in_msecs)


@pytest.mark.parametrize("claim", ["p50>0us", "p50<9s", "max<1s", "avg<1s", "count>0"])
def test_claims_without_events(claim: str) -> None:
    """Without events only a condition about the count can be true."""
    nothing = Histogram({}, "usecs", {})

    assert not parse_condition(claim).is_true(nothing)
    assert parse_condition("count<1").is_true(nothing)


@given(st.text(max_size=12) | st.from_regex(r"(p9+|count|max)[<>=]{1,2}[0-9.]{1,4}[munsK]{0,2}"))
def test_any_claim(text: str) -> None:
    """Any text is either a condition that can be tested, or an error of one line."""
    try:
        request(alert=(parse_condition(text),)).alert[0].is_true(USUAL)
    except UsageError as error:
        assert "\n" not in str(error)


def test_alerts_name_what_they_are_of(capfd: pytest.CaptureFixture[str]) -> None:
    """An alert names condition, value and escaped key; a report cut short cannot have too few."""
    asked = request(alert=tuple(map(parse_condition, ("p99>10us", "count<1000"))))
    found = [USUAL._replace(key={"comm": "\x1b[31m"})]

    assert 2 == compare.alert("runqlat", asked, found, whole=True)
    assert 1 == compare.alert("runqlat", asked, found, whole=False)
    where = r" (comm = \x1b[31m)"
    first = f"runqlat: alert: p99>10us: p99 is 68 usecs{where}\n"
    assert (
        f"{first}runqlat: alert: count<1000: count is 100{where}\n{first}" == capfd.readouterr()[1]
    )


def test_average_is_added_up() -> None:
    """With a condition about the average, the kernel adds the values up."""
    asked = request(alert=(parse_condition("avg>1ms"),))

    assert asked.variables()["hist_summed"]


@given(st.lists(st.tuples(st.sampled_from(["a", "\udcff", "é;"]), slots), min_size=1, max_size=5))
def test_baseline_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, reports: list[tuple[str, dict[int, int]]]
) -> None:
    """A file of --json gives its histograms back, merged by their keys."""
    path = tmp_path_factory.mktemp("baseline") / "file"
    expected: dict[str, Histogram] = {}
    with open(path, "w") as file:
        for name, counts in reports:
            histogram = Histogram({"comm": name}, "usecs", counts)
            file.write(json.dumps({"time": 1, **histogram.to_json(), "baseline": {}}) + "\n")
            expected[name] = expected[name].merge(histogram) if name in expected else histogram
        file.write('{"summary": {"events": 1}}\n')
    read = parse_baseline(str(path))

    assert expected == {each.key["comm"]: each for each in read.values()}
    for histogram in expected.values():
        described = compare.describe(read, histogram)
        assert described and {0.0} == set(described["difference"].values())


@pytest.mark.parametrize(
    "content",
    [
        "",
        "x",
        "[]",
        "1",
        "{}",
        "[" * 100_000,
        '{"summary": {}}',
        '{"buckets": [[1, 2, 3]]}',
        '{"unit": "usecs", "buckets": []}',
        '{"unit": "usecs", "buckets": [[1, 2, -3]]}',
        '{"unit": "usecs", "buckets": [[1.01, 2, 3]]}',
        '{"unit": "usecs", "buckets": [[1, 2, 1e999]]}',
        '{"unit": "usecs", "buckets": [[1, 2, 3]], "pid": []}',
        '{"unit": "parsecs", "buckets": [[1, 2, 3]]}',
        '{"unit": ["usecs"], "buckets": [[1, 2, 3]]}',
        "\udcff",
    ],
)
def test_baseline_that_is_none(tmp_path: Path, content: str) -> None:
    """A file that --json has not written is an error of one line."""
    path = tmp_path / "file"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match="not contain histograms"):
        parse_baseline(str(path))


@pytest.mark.parametrize("path", ["/dev/zero", "/proc"])
def test_baseline_without_end(path: str) -> None:
    """A baseline is read from a file or a pipe only: nothing else is sure to end."""
    with pytest.raises(UsageError, match=f"cannot read {path}"):
        parse_baseline(path)


def test_baseline_of_a_pipe() -> None:
    """A baseline may be a pipe, as a shell makes one with <(zcat FILE)."""
    output, pipe = os.pipe()
    with open(pipe, "w") as file:
        file.write(json.dumps({"time": 1, **USUAL.to_json()}) + "\n")
    read = parse_baseline(f"/proc/self/fd/{output}")
    os.close(output)

    assert [USUAL.slots] == [each.slots for each in read.values()]


def test_baseline_in_the_report() -> None:
    """Below a histogram stand the baseline's percentiles, and by how much they have changed."""
    slower = USUAL._replace(slots={slot + 8: count for slot, count in SLOTS.items()})
    baseline = {frozenset[Any](): USUAL}
    lines = compare.text(baseline, slower).splitlines()

    assert "baseline 100  p50 8.5  p90 8.5  p99 68  p99.9 1088  max 1088 usecs" == lines[0]
    assert "change  p50 +100 %  p90 +100 %  p99 +100 %  p99.9 +100 %  max +100 %" == lines[1]
    assert "no baseline\n" == compare.text(baseline, slower._replace(key={"pid": 1}))
    with pytest.raises(UsageError, match="in usecs, not in msecs"):
        request(baseline=baseline, milliseconds=True)


def test_baseline_of_a_container() -> None:
    """A container that was started again is compared with what it was, by its name."""
    baseline = {frozenset[Any]({("container", "web")}): USUAL}
    web, other = (
        USUAL._replace(key={"cgroup": number, "container": name})
        for number, name in ((7, "web"), (8, "shop"))
    )

    assert "change  p50 +0 %" in compare.text(baseline, web)
    assert "no baseline\n" == compare.text(baseline, other)
