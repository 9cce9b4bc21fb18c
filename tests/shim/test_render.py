# SPDX-License-Identifier: BSD-2-Clause
"""Whatever bytes a record has, its row is complete and safe, and the bytes can be read back."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracewheel._shim import ffi, lib
from tracewheel.runtime.host.terminal import escape

FIXED = 64
KINDS = {name: getattr(lib, name) for name in dir(lib) if name.startswith("SHIM_")}
NAMED = {"SHIM_NAME", "SHIM_OPTIONAL_NAME"}  # an absent key stops the rendering
TABLED = {*NAMED, "SHIM_FLAGS", "SHIM_ERRNO", "SHIM_EXIT"}


def batch_of(*records: bytes) -> bytes:
    """Return a batch of records as shim_read makes it."""
    return b"".join(len(r).to_bytes(8, "little") + r + b"\0" * (-len(r) % 8) for r in records)


def render(
    batch: bytes, columns: list[dict[str, Any]], as_json: bool, room: int = 1 << 20
) -> tuple[int, bytes, Any]:
    """Render with one table, of which every key but 7 is absent."""
    name = ffi.new("char[]", b"name")
    keys, texts = ffi.new("uint64_t[]", [7]), ffi.new("char *[]", [name])
    tables = ffi.new("struct shim_table[]", [(keys, texts, 1)])
    layout = ffi.new("struct shim_column[]", [{"name": name, **c} for c in columns])
    plan = ffi.new(
        "struct shim_plan *", (layout, tables, len(columns), FIXED, as_json, False, 0, 0)
    )
    out = ffi.new("char[]", room)
    done = ffi.new("struct shim_rendered *")
    error = lib.shim_render(plan, batch, len(batch), out, room, done)
    return error, bytes(ffi.buffer(out, done.produced)), done


columns_of_any_kind = st.lists(
    st.builds(
        lambda kind, offset, size, width: {
            "kind": KINDS[kind],
            "offset": offset,
            "size": size,
            "width": width,
            "number": 1000 if kind == "SHIM_SPAN" else 0,
        },
        st.sampled_from(sorted(set(KINDS) - NAMED)),
        st.integers(0, FIXED - 16),
        st.sampled_from([1, 2, 4, 8]),
        st.integers(0, 20),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=400)
@given(st.lists(st.binary(max_size=300), max_size=8), columns_of_any_kind, st.booleans())
def test_any_record(records: list[bytes], columns: list[dict[str, Any]], as_json: bool) -> None:
    """Short records are counted as bad, all others give a row of nothing but printable text."""
    error, text, done = render(batch_of(*records), columns, as_json)

    assert 0 == error
    assert len([r for r in records if len(r) < FIXED]) == done.bad
    assert len([r for r in records if len(r) >= FIXED]) == done.records
    shown = text.decode()
    assert all(c == "\n" or c.isprintable() for c in shown)
    if as_json:
        assert done.records == len([json.loads(line) for line in shown.splitlines()])


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_batch(batch: bytes) -> None:
    """A batch of noise is refused or read to its end, never beyond."""
    column = {"kind": lib.SHIM_TEXT, "offset": 0, "size": 8}
    error, _, done = render(batch, [column], False)

    assert error in (0, -74)
    assert done.consumed <= len(batch)


@pytest.mark.parametrize(
    ("value", "whole", "share", "bar"),
    [(0, 0, "0", 0), (0, 9, "0", 0), (1, 40, "2.5", 0), (3, 8, "38", 7), (7, 7, "100", 20),
     (2**64 - 1, 1, None, 20)],
)  # fmt: skip
def test_shares_and_bars(value: int, whole: int, share: str | None, bar: int) -> None:
    """A share is in percent of another member, and a bar no longer than its column."""
    record = (value.to_bytes(8, "little") + whole.to_bytes(8, "little")).ljust(FIXED, b"\0")
    shown = {"offset": 0, "size": 8, "width": 20, "number": 8}
    columns = [{"kind": lib.SHIM_SHARE, **shown}, {"kind": lib.SHIM_BAR, **shown}]
    _, line, _ = render(batch_of(record), columns, False)
    words = line.decode().split()

    assert share in (words[0], None)
    assert [bar * "*"] * bool(bar) == words[1:]


def text_record(text: bytes, state: int = 0) -> bytes:
    """Return a record whose text at offset 0 is the whole tail."""
    part = (0).to_bytes(4, "little") + len(text).to_bytes(2, "little") + state.to_bytes(2, "little")
    return part.ljust(FIXED, b"\0") + text


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_json_loses_no_byte(text: bytes) -> None:
    """JSON gives the text back: itself where it is UTF-8, else in base64 beside it."""
    column = {"kind": lib.SHIM_TEXT, "offset": 0, "size": 8}
    _, line, _ = render(batch_of(text_record(text)), [column], True)
    decoded = json.loads(line)

    kept = base64.b64decode(decoded["name_b64"]) if "name_b64" in decoded else None
    assert text == (decoded["name"].encode() if kept is None else kept)


@settings(max_examples=300)
@given(st.binary(max_size=200), st.booleans())
def test_escape_is_unambiguous(
    unescape: Callable[[str], bytes], text: bytes, ascii_only: bool
) -> None:
    """A text in a table can be read back, and has no bytes that a terminal would obey."""
    shown = escape(text, ascii_only)

    assert shown.isprintable()
    assert text == unescape(shown)
    assert not ascii_only or shown.isascii()


@given(st.text(min_size=1, max_size=50), st.integers(1, 3))
def test_cut_text_has_no_half_characters(text: str, cut: int) -> None:
    """A text that was cut inside a character is shown without that character, and marked."""
    whole = text.encode()
    column = {"kind": lib.SHIM_TEXT, "offset": 0, "size": 8}
    kept = whole[:-cut] if cut < len(whole) else b""
    _, line, _ = render(batch_of(text_record(kept, state=1)), [column], True)
    decoded = json.loads(line)

    assert kept.decode(errors="ignore") == decoded["name"]
    assert decoded["name_truncated"] is True


def test_full_output_stops_between_rows() -> None:
    """If the output is full, it has whole rows, and consumed tells where to go on."""
    batch = batch_of(*(text_record(b"x" * 30) for _ in range(10)))
    column = {"kind": lib.SHIM_TEXT, "offset": 0, "size": 8}
    error, text, done = render(batch, [column], False, room=100)

    assert (-28, 3, 3) == (error, done.records, text.count(b"\n"))
    _, rest, _ = render(batch[done.consumed :], [column], False)
    assert 7 == rest.count(b"\n")


def test_missing_name_stops_and_says_which() -> None:
    """The rendering stops at a key that a table lacks and tells it, after the rows before."""
    column = {"kind": lib.SHIM_NAME, "offset": 0, "size": 8}
    records = [number.to_bytes(8, "little").ljust(FIXED, b"\0") for number in (7, 7, 9, 7)]
    error, text, done = render(batch_of(*records), [column], False)

    assert (-126, b"name\nname\n", 9) == (error, text, done.key)


@pytest.mark.parametrize(
    ("kind", "nothing", "other"),
    [
        ("SHIM_OPTIONAL", 2**63 - 1, (-5, "-5")),
        ("SHIM_OPTIONAL_NAME", -1, (7, "name")),
    ],
)
def test_nothing(kind: str, nothing: int, other: tuple[int, str]) -> None:
    """A number or a name that does not exist is a dash in a table, and null in JSON."""
    column = {"kind": KINDS[kind], "offset": 0, "size": 8}
    records = [
        n.to_bytes(8, "little", signed=True).ljust(FIXED, b"\0") for n in (nothing, other[0])
    ]
    _, text, _ = render(batch_of(*records), [column], False)
    _, lines, _ = render(batch_of(*records), [column], True)

    assert ["-", other[1]] == text.decode().splitlines()
    assert [None, other[1]] == [
        value if value is None else str(value)
        for value in (json.loads(line)["name"] for line in lines.splitlines())
    ]


@pytest.mark.parametrize(
    ("time", "shown"),
    [
        (0, ".000"),
        (1_999_999_999, ".999"),
        (2**64 - 1, ".999"),
        (2**64 - 10**9, ".000"),
        (2**63 - 1, ".854"),
        (2**63, ".145"),
    ],
)
def test_any_time(time: int, shown: str) -> None:
    """A time before 1970 has milliseconds, too, and one that is too large begins again there."""
    column = {"kind": lib.SHIM_CLOCK, "offset": 0, "size": 8, "number": 1}
    record = time.to_bytes(8, "little").ljust(FIXED, b"\0")
    _, text, _ = render(batch_of(record), [column], False)
    signed = time - 2**64 if time >= 2**63 else time
    second = datetime.datetime.fromtimestamp(signed // 10**9)

    assert f"{second:%Y-%m-%d %H:%M:%S}{shown}\n" == text.decode()


def test_least_result() -> None:
    """The error of the least result of all is its number, without a sign."""
    column = {"kind": lib.SHIM_ERRNO, "offset": 0, "size": 8}
    record = (2**63).to_bytes(8, "little").ljust(FIXED, b"\0")
    _, text, _ = render(batch_of(record), [column], False)

    assert f"{2**63}\n" == text.decode()


@given(st.integers(0, 2**64 - 1), st.integers(1, 2**62), st.sampled_from([0, 1, 256]))
def test_rate(value: int, ns: int, unit: int) -> None:
    """A rate is per second of the time in the record, in its unit, small ones to a tenth."""
    column = {"kind": lib.SHIM_RATE, "offset": 0, "size": 8, "number": 8, "unit": unit}
    record = (value.to_bytes(8, "little") + ns.to_bytes(8, "little")).ljust(FIXED, b"\0")
    _, text, _ = render(batch_of(record), [column], False)

    rate = value * 1e9 / ns / (unit or 1)
    assert rate == pytest.approx(float(text), rel=0.05, abs=0.051)
    assert (b"." in text) == (0 < rate < 10)


@given(st.one_of(st.binary(min_size=16, max_size=16), st.ip_addresses().map(lambda a: a.packed)))
def test_addresses(packed: bytes) -> None:
    """An address is shown as what Python reads as the same one, IPv4 as such, in both forms."""
    raw = packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed
    column = {"kind": lib.SHIM_ADDRESS, "offset": 0, "size": 16}
    batch = batch_of(raw.ljust(FIXED, b"\0"))
    _, text, _ = render(batch, [column], False)
    _, line, _ = render(batch, [column], True)
    address = ipaddress.IPv6Address(raw)

    assert (address.ipv4_mapped or address) == ipaddress.ip_address(text.decode().strip())
    assert json.loads(line)["name"] == text.decode().strip()


def test_columns_of_addresses_widen() -> None:
    """From the first long address on, the columns behind addresses are aligned."""
    column = {"kind": lib.SHIM_ADDRESS, "offset": 0, "size": 16, "width": 15}
    behind = {"kind": lib.SHIM_UNSIGNED, "offset": 16, "size": 8}
    raws = [bytes(10) + b"\xff\xff\x7f\0\0\1", bytes([32, 1] * 8), bytes(15) + b"\1"]
    records = [(raw + b"\7").ljust(FIXED, b"\0") for raw in raws]
    _, text, _ = render(batch_of(*records), [column, behind], False)

    assert [16, 40, 40] == [line.index("7", 15) for line in text.decode().split("\n")[:-1]]
