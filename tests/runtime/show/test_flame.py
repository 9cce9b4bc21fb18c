# SPDX-License-Identifier: BSD-2-Clause
"""Stacks come out of each form as they went in, whatever their frames are called."""

from __future__ import annotations

import json
import os
import re
import stat
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracewheel.runtime.host.errors import BpfError
from tracewheel.runtime.host.files import replace_file
from tracewheel.runtime.show import flame, unnamed
from tracewheel.runtime.spec.arguments import parse_target

if TYPE_CHECKING:
    from collections.abc import Callable

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = ["a;b", "x 1", "]]>", "<script>", "\x1b[2J", "a\nb 7", "\\", "\\x3b", "&amp;", "\udcff",
           "\u202e", "\ufffe", '"', "", "grün"]  # fmt: skip
UNNAMED = ["[unknown]", "[unknown+0x0]", "[unknown+0x7f5c01]", "[anon]", "[anon+0x84b]"]
NAMED = ["[lost stack]", "[libc.so.6+0x12]", "[unknown+0x12", "[unknown+boo]", "f"]
names = st.sampled_from(HOSTILE) | st.binary(max_size=8).map(os.fsdecode)
stacks_of_any_names = st.dictionaries(
    st.lists(names, min_size=1, max_size=6).map(tuple), st.integers(1, 2**40), max_size=12
)


@given(stacks=stacks_of_any_names)
def test_folded(unescape: Callable[[str], bytes], stacks: flame.Folded) -> None:
    """A line for each stack, from which its frames and weight can be told again."""
    found = {}
    for line in flame.folded(stacks).splitlines():
        assert line.isprintable()
        stack, _, weight = line.rpartition(" ")
        found[tuple(os.fsdecode(unescape(name)) for name in stack.split(";"))] = int(weight)

    assert stacks == found


@given(stacks=stacks_of_any_names)
def test_speedscope(unescape: Callable[[str], bytes], stacks: flame.Folded) -> None:
    """The profile's samples are the stacks, and its end is the sum of their weights."""
    document = json.loads(flame.speedscope(stacks, "a title", "usecs"))
    frames = [os.fsdecode(unescape(each["name"])) for each in document["shared"]["frames"]]
    (profile,) = document["profiles"]
    samples = [tuple(frames[number] for number in sample) for sample in profile["samples"]]

    assert stacks == dict(zip(samples, profile["weights"]))
    assert len(frames) == len(set(frames))
    assert ("sampled", "microseconds") == (profile["type"], profile["unit"])
    assert (0, sum(stacks.values())) == (profile["startValue"], profile["endValue"])


def boxes(document: str) -> list[tuple[str, int, int, int]]:
    """Return name, depth, begin and weight of each frame of a flame graph."""
    found = []
    for shape in ET.fromstring(document).iter(f"{SVG}svg"):
        if "data-w" in shape.attrib:
            name = str(shape.findtext(f"{SVG}title")).rsplit("\n", 1)[0]
            depth, begin, weight = (int(shape.attrib[f"data-{letter}"]) for letter in "dbw")
            found.append((name, depth, begin, weight))
    return found


@given(stacks=stacks_of_any_names)
def test_svg_is_well_formed(stacks: flame.Folded) -> None:
    """The graph is XML, and as wide as all weights; each box lies on one that holds it."""
    found = boxes(flame.svg(stacks, "<&]]>", "'\"<"))
    depths = {depth: [b for b in found if b[1] == depth] for _, depth, _, _ in found}

    assert sum(stacks.values()) == sum(weight for *_, weight in depths.get(0, []))
    for _, depth, begin, weight in found:
        below = depths.get(depth - 1, [])
        assert not depth or 1 == sum(b <= begin and begin + weight <= b + w for *_, b, w in below)


def test_svg_adds_up() -> None:
    """Stacks that begin alike share boxes; a box is as wide as all that passes through it."""
    stacks = {("a", "b"): 3, ("a", "b", "c"): 5, ("a", "d"): 7, ("e",): 11, ("f",): 0}
    expected = [("all", 0, 0, 26), ("a", 1, 0, 15), ("b", 2, 0, 8), ("c", 3, 3, 5),
                ("d", 2, 8, 7), ("e", 1, 15, 11)]  # fmt: skip

    assert expected == boxes(flame.svg(stacks, "", "x"))


def test_svg_tells_what_it_leaves_out() -> None:
    """What is too narrow to be seen is left out, so that the file has a bound, and counted."""
    stacks: flame.Folded = {
        ("wide",): 10**6,
        **{(f"narrow-{number}",): 1 for number in range(1009)},
    }
    document = flame.svg(stacks, "", "x")

    assert ["all", "wide"] == [name for name, *_ in boxes(document)]
    assert "1,001,009 x in 1,010 stacks; 1,009 branches below 0.02 % are left out" in document


def test_svg_of_the_deepest_stacks() -> None:
    """A process name, and as many frames of the program and the kernel as either can have."""
    names = [f"frame-{number}" for number in range(1 + 127 + 127)]
    found = boxes(flame.svg({tuple(names): 7}, "", "x"))

    assert [("all", 0, 0, 7), *((name, n + 1, 0, 7) for n, name in enumerate(names))] == found


def test_unnamed_frames_are_one_box() -> None:
    """Unnamed frames that follow each other are one box, which tells how many they are."""
    stacks = {
        ("sh", "main", *(f"[unknown+{number:#x}]" for number in range(37)), "read"): 7,
        ("sh", "main", *["[unknown]"] * 5, "read"): 11,
        ("sh", "main", "[unknown+0x5]", "[anon+0x1]", "[anon+0x2]", "write"): 13,
        ("sh", "[unknown]", "read"): 17,
        ("sh", "[lost stack]"): 19,
    }
    expected = [
        ("all", 0, 0, 67),
        ("sh", 1, 0, 67),
        ("[lost stack]", 2, 0, 19),
        ("[unknown]", 2, 19, 17),
        ("read", 3, 19, 17),
        ("main", 2, 36, 31),
        ("[unknown] (1 to 37 frames)", 3, 36, 31),
        ("[anon] (2 frames)", 4, 36, 13),
        ("write", 5, 36, 13),
        ("read", 4, 49, 18),
    ]

    assert expected == boxes(flame.svg(stacks, "", "x"))
    assert "67 x in 5 stacks" in flame.svg(stacks, "", "x")


def test_unnamed_frames_stay_in_the_other_forms() -> None:
    """Only the picture joins frames: each one stands in folded lines and speedscope profiles."""
    stack = ("sh", *(f"[unknown+{number:#x}]" for number in range(37)))
    samples = json.loads(flame.speedscope({stack: 7}, "", "x"))["profiles"][0]["samples"]

    assert ";".join(stack) + " 7\n" == flame.folded({stack: 7})
    assert [list(range(38))] == samples


@given(st.lists(st.sampled_from(UNNAMED + NAMED), max_size=12).map(tuple))
def test_joined_frames_stand_for_all(stack: tuple[str, ...]) -> None:
    """No frame is lost, no frame with a name is joined, and no run is left in two."""
    joined = unnamed.join(stack)
    kinds = [re.sub(r"^(\[unknown|\[anon)(\+0x[0-9a-f]+)?\]$", r"\1]", name) for name in stack]

    assert kinds == [name for name, length in joined for _ in range(length)]
    for name, length in joined:
        assert 1 == length or name in ("[unknown]", "[anon]")
    for (name, _), (following, _) in zip(joined, joined[1:]):
        assert name != following or name not in ("[unknown]", "[anon]")


def test_svg_asks_for_nothing() -> None:
    """No address stands in the file but the names of its languages."""
    found = set(re.findall(r"\w+://[^\"'\s<]+", flame.svg({("a",): 1}, "", "x")))

    assert {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"} == found
    assert not re.search(r"(href|src|url|import)\s*[=(]", flame.svg({("a",): 1}, "", "x"))


def test_file_is_whole_or_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be finished leaves the older one as it was, and no other."""
    path = tmp_path / "graph.svg"
    replace_file(str(path), "old")
    with pytest.raises(BpfError, match="No space left"):
        replace_file("/dev/full", "x" * 100_000)
    monkeypatch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(BpfError, match=r"cannot write .*graph.svg: No space"):
        replace_file(str(path), "new")

    assert ["graph.svg"] == os.listdir(tmp_path)
    assert "old" == path.read_text()


def test_file_that_is_a_link_or_device(tmp_path: Path) -> None:
    """A link stays a link, a device a device: what they lead to is written."""
    (tmp_path / "link").symlink_to("target")
    replace_file(str(tmp_path / "link"), "text")
    replace_file("/dev/null", "text")

    assert (tmp_path / "link").is_symlink()
    assert "text" == (tmp_path / "target").read_text()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("path", ["/", "", "/no/such/file", "/proc/x"])
def test_file_that_cannot_be(path: str) -> None:
    """What cannot be written is told before anything is traced."""
    with pytest.raises(BpfError, match="cannot write"):
        parse_target(path)


def test_file_that_can_be(tmp_path: Path) -> None:
    """To ask leaves nothing behind."""
    assert [str(tmp_path / "x"), "-"] == [parse_target(str(tmp_path / "x")), parse_target("-")]
    assert [] == os.listdir(tmp_path)
