# SPDX-License-Identifier: BSD-2-Clause
"""Rust's mangled names become what the source says, and nothing that looks like one does harm."""

from __future__ import annotations

import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracewheel.runtime.host.rust_names import demangle
from tracewheel.runtime.host.symbols import _readable

# Made by rustc 1.95. What they stand for is as in the source, and c++filt agrees.
KNOWN = {
    "_RNvCs7fZ0a5rPtex_4yard4main": "yard::main",
    "_RNvNvNtCs7fZ0a5rPtex_4yard5tools5outer6hidden": "yard::tools::outer::hidden",
    "_RNCNvCs7fZ0a5rPtex_4yard4main0B3_": "yard::main::{closure#0}",
    "_RNCNCNvCs7fZ0a5rPtex_4yard4mains0_00B5_": "yard::main::{closure#2}::{closure#0}",
    "_RINvNtCs6xxl1lAjzDf_1a5depotu7grn_ioaKj11_EB4_": "a::depot::grün::<17>",
    "_RINvCs7fZ0a5rPtex_4yard5takesFG_QL0_Acj4_EzEB2_": ("yard::takes::<fn(&mut [char; 4]) -> !>"),
    "_RINvCs7fZ0a5rPtex_4yard5takesFUKCOhEuEB2_": ('yard::takes::<unsafe extern "C" fn(*mut u8)>'),
    "_RINvCs7fZ0a5rPtex_4yard5takesTnuEEB2_": "yard::takes::<(i128, ())>",
    "_RINvCs7fZ0a5rPtex_4yard5takesRDG_INtNtNtCsgEmfK2I1SDS_4core3ops8function2FnTRL0_eEEp6Output"
    "NtNtCslNYArtu3iFV_5alloc6string6StringEL_EB2_": (
        "yard::takes::<&dyn core::ops::function::Fn<(&str,), Output = alloc::string::String>>"
    ),
    "_RINvCs7fZ0a5rPtex_4yard5takesINtNtCslNYArtu3iFV_5alloc5boxed3BoxDNtNtNtNtCsgEmfK2I1SDS_4core"
    "4iter6traits8iterator8Iteratorp4ItemhNtNtB19_6marker4SendEL_EEB2_": (
        "yard::takes::<alloc::boxed::Box<dyn core::iter::traits::iterator::Iterator<Item = u8> + "
        "core::marker::Send>>"
    ),
    "_RNvMCs7fZ0a5rPtex_4yardINtB2_4SignKan5_Kb1_Kc71_E5shownB2_": (
        "<yard::Sign<-5, true, 'q'>>::shown"
    ),
    "_RNvXs1_Cs7fZ0a5rPtex_4yardPeNtB5_5Named4name": "<*const str as yard::Named>::name",
    "_RNvXs_NtCs6xxl1lAjzDf_1a5depotINtB4_5CraneRAhj3_ENtB4_4Move2go": (
        "<a::depot::Crane<&[u8; 3]> as a::depot::Move>::go"
    ),
    "_RNvYStNtCs7fZ0a5rPtex_4yard5Named5twiceB6_": "<[u16] as yard::Named>::twice",
    "_RNvNvMs_NtCslNYArtu3iFV_5alloc3vecINtB6_3VecppE7set_len18precondition_check"
    "Cs7fZ0a5rPtex_4yard": ("<alloc::vec::Vec<_, _>>::set_len::precondition_check"),
    "_RNSNvYNCNvCs7fZ0a5rPtex_4yard4mains_0INtNtNtCsgEmfK2I1SDS_4core3ops8function6FnOnceTReEE"
    "9call_once6vtableB8_": (
        "<yard::main::{closure#1} as core::ops::function::FnOnce<(&str,)>>::call_once::"
        "{shim:vtable#0}"
    ),
    "_RNvCs7fZ0a5rPtex_4yard4main.llvm.1234567890": "yard::main",
    "_RNvCs7fZ0a5rPtex_4yard4main.cold": "yard::main.cold",
}
BASE_62 = string.digits + string.ascii_letters
NOT_RUST = [
    "",
    "_R",
    "_RNvC4yard",
    "_RNvC4yard9main",
    "_RNvC4yard4main~",
    "_R0NvC4yard4main",
    "_Regexp_compile",
    "_ZN4yard4main17h0123456789abcdefE",
    "_RNvC4y<rd4main",
    "_RNvC4yard4m\udcffin",
    "_RNvC4yard4main\n",
    "_RNvB_4main",
    "_RINvC1a1bBz_E",
    "_RINvC1a1bKcffffffffffffffff_E",
    "_RINvC1a1bKcd800_E",
    "_RINvC1a1bKb2_E",
    "_RNvC1au4_999999",
    "_RNvC1au9_999999999",
    "_R" + "NvC1a" * 500,
    "_RINvC1a1b" + "R" * 900 + "hE",
    "_RINvC1a1b" + "B9_" * 300 + "E",
]


@pytest.mark.parametrize("symbol", KNOWN)
def test_known_names(symbol: str) -> None:
    """What the compiler made of a name becomes that name again."""
    assert KNOWN[symbol] == demangle(symbol)
    assert KNOWN[symbol] == _readable(symbol.encode())


@pytest.mark.parametrize("symbol", NOT_RUST)
def test_others_stay(symbol: str) -> None:
    """What does not follow the grammar is no Rust name, and is shown as it is."""
    assert demangle(symbol) is None


def test_cut_names() -> None:
    """A name that is cut off anywhere is no error."""
    for symbol in KNOWN:
        for end in range(len(symbol)):
            found = demangle(symbol[:end])
            assert found is None or found.startswith(KNOWN[symbol].partition(".")[0])


def doubled(times: int) -> str:
    """Return a name with a pair of types, a pair of such pairs, and so on."""
    text, last = "INvC1a1b", "h"
    for _ in range(times):
        place = len(text) - 1  # of 0 there are no digits
        digits = (BASE_62[place // 62] + BASE_62[place % 62]).lstrip("0")
        text, last = f"{text}T{last}{last}E", f"B{digits}_"
    return f"_R{text}E"


def test_bomb() -> None:
    """A short name that stands for one without end is given up soon."""
    begin = time.process_time()

    assert "a::b::<(u8, u8), ((u8, u8), (u8, u8))>" == demangle(doubled(2))
    assert (demangle(doubled(6)) or "").count("u8") == 2 + 4 + 8 + 16 + 32 + 64
    assert demangle(doubled(60)) is None
    assert time.process_time() - begin < 1


parts = st.sampled_from(
    [
        *"CNMXYIBTRQPOSAFDEKLGUpus_0123456789ahjvz",
        "1a",
        "4yard",
        "s_",
        "B_",
        "B2_",
        "Kj11_",
        "u7grn_ioa",
    ]
)


@given(st.lists(parts | st.text(max_size=3), max_size=60).map("".join))
def test_anything(text: str) -> None:
    """Whatever follows the first two letters, there is a name or none, and it can be shown."""
    found = demangle(f"_R{text}")

    assert found is None or found.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("sign", ["<", "&", '"', "\x1b", "\u202e"])
def test_hostile_letters(sign: str) -> None:
    """Letters that mean something elsewhere come through as letters, to be escaped there."""
    assert f"a::b::<'{sign}'>" == demangle(f"_RINvC1a1bKc{ord(sign):x}_E")
