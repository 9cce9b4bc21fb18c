# SPDX-License-Identifier: BSD-2-Clause
"""Histograms describe any values as the values themselves do, within the promised error."""

from __future__ import annotations

import bisect
import collections
import json
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracewheel.runtime.host.errors import UsageError
from tracewheel.runtime.spec.distribution import PERCENTILES, Histogram, difference, slot_bounds

SLOTS = 496
WITHIN = 0.07
LOWS = [slot_bounds(slot)[0] for slot in range(SLOTS)]

values_of_any_size = st.lists(
    st.integers(0, 63).flatmap(lambda bits: st.integers(0, 2**bits)), min_size=1, max_size=100
)


def histogram(values: list[int]) -> Histogram:
    """Return the distribution of values in 1/1024 microseconds."""
    slots = collections.Counter(bisect.bisect_right(LOWS, value) - 1 for value in values)
    return Histogram({}, "usecs", dict(slots))


def test_slots_leave_no_gap() -> None:
    """Every 64-bit value lies in exactly one slot."""
    bounds = [slot_bounds(slot) for slot in range(SLOTS)]

    assert (0, 2**64) == (bounds[0][0], bounds[-1][1])
    assert [high for _, high in bounds[:-1]] == [low for low, _ in bounds[1:]]


def test_slots_are_narrow() -> None:
    """The middle of a slot is at most 6.25 % from any value in it, or half a 1/1024 unit."""
    for slot in range(SLOTS):
        low, high = slot_bounds(slot)
        assert high - low == 1 or (high - low) / 2 <= low * 0.0625


@given(values_of_any_size, st.sampled_from(sorted(PERCENTILES.values())))
def test_percentiles(values: list[int], percent: float) -> None:
    """A percentile is within 7 % of the value of that rank."""
    rank = max(1, math.ceil(round(len(values) * percent * 10) / 1000))
    exact = sorted(values)[rank - 1] / 1024

    assert exact == pytest.approx(histogram(values).percentile(percent), rel=WITHIN, abs=1 / 1024)


@given(st.lists(st.integers(1, 2**32), min_size=1))
def test_percentiles_of_sizes(sizes: list[int]) -> None:
    """Of bytes, powers of two are told exactly, and others are told at most 12.5 % too low."""
    greatest = max(sizes)
    told = histogram([1024 * size for size in sizes])._replace(unit="bytes").percentile(100)
    power = histogram([1024 << greatest.bit_length()])._replace(unit="bytes").percentile(50)

    assert 0.875 * greatest < told <= greatest
    assert 1 << greatest.bit_length() == power


@given(st.lists(st.integers(0, 2**32), min_size=1))
def test_rows_of_sizes(sizes: list[int]) -> None:
    """Of bytes, the first row is the first that has events, and none is left out."""
    rows = histogram([1024 * size for size in sizes])._replace(unit="bytes").rows()

    assert [(low, high, sum(low <= s <= high for s in sizes)) for low, high, _ in rows] == rows
    assert len(sizes) == sum(count for _, _, count in rows)
    assert rows[0][2]


def test_percentile_of_nothing() -> None:
    """Without events every percentile is 0."""
    assert {0.0} == set(histogram([]).percentiles().values())


@given(values_of_any_size, values_of_any_size)
def test_merge(these: list[int], those: list[int]) -> None:
    """Merging two histograms gives the histogram of all their values."""
    assert histogram(these + those) == histogram(these).merge(histogram(those))


@given(values_of_any_size, values_of_any_size)
def test_difference(earlier: list[int], later: list[int]) -> None:
    """A difference has the events since the earlier reading only."""
    both = histogram(earlier + later).slots
    assert histogram(later).slots == difference(both, histogram(earlier).slots)


def test_merge_of_sums() -> None:
    """Sums add up; one that is unknown makes the whole unknown."""
    summed = histogram([1024, 3072])._replace(sum=4.0)
    merged = summed.merge(summed)

    assert (8.0, 2.0) == (merged.sum, merged.average)
    assert summed.merge(histogram([1024])).sum is None


def test_merge_of_different_units() -> None:
    """Microseconds are not added to milliseconds."""
    with pytest.raises(UsageError):
        histogram([1]).merge(histogram([1])._replace(unit="msecs"))


@given(values_of_any_size)
def test_rows(values: list[int]) -> None:
    """Each row counts the values from its first to its last whole unit, none is left out."""
    rows = histogram(values).rows()
    units = [value // 1024 for value in values]

    assert [(low, high, sum(low <= u <= high for u in units)) for low, high, _ in rows] == rows
    assert len(values) == sum(count for _, _, count in rows)
    assert 0 == rows[0][0]


@given(values_of_any_size)
def test_buckets_add_up(values: list[int]) -> None:
    """The buckets of the JSON object hold every value, in ascending order."""
    described = json.loads(json.dumps(histogram(values).to_json()))
    buckets = described["buckets"]

    assert len(values) == described["count"] == sum(count for _, _, count in buckets)
    assert buckets == sorted(buckets)
    for low, high, count in buckets:
        assert count == sum(1024 * low <= value < 1024 * high for value in values)


@given(st.lists(st.integers(0, 2**42), min_size=1, max_size=50), st.booleans())
def test_text(values: list[int], fine: bool) -> None:
    """The longest row has 40 stars, every line fits a terminal, and the count is shown."""
    lines = histogram(values).text(fine).splitlines()

    assert 40 == max(line.count("*") for line in lines[1:-1])
    assert max(map(len, lines[:-1])) < 80
    assert f"count {len(values)} " in lines[-1]


def test_familiar_look() -> None:
    """The rows look as they always have in tools of these names."""
    expected = """\
     usecs               : count    distribution
         0 -> 1          : 1        |*************                           |
         2 -> 3          : 0        |                                        |
         4 -> 7          : 3        |****************************************|
"""
    text = histogram([1024, 4 * 1024, 5 * 1024, 7 * 1024]).text()

    assert expected.splitlines() == text.splitlines()[:-1]
    assert "count 4  p50 " in text.splitlines()[-1]
    assert os.linesep == text[-1]
