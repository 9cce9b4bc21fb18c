# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's DFA and the regular expression both match what fnmatch matches."""

from __future__ import annotations

import fnmatch
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracewheel.runtime.host.errors import UsageError
from tracewheel.runtime.spec.glob import CLASSES, Glob, compile_glob

ALL_LETTERS = os.fsdecode(bytes(set(range(1, 256)) - set(b"*?[/")))
names = st.text(st.sampled_from("ab.-]"), max_size=8)
globs = st.lists(
    st.sampled_from(["a", "b", ".", "*", "?", "[ab]", "[!a]", "[a-b.]", "]"]),
    min_size=1,
    max_size=6,
).map("".join)


def dfa_matches(glob: Glob, text: bytes) -> bool:
    """Match as glob.bpf.h does, or as user space does if the table would be too large."""
    if not glob.variables:
        return glob.matches(text)
    classes, following, accepts = (
        glob.variables[name] for name in ("glob_classes", "glob_next", "glob_accepts")
    )
    assert isinstance(classes, bytes)
    assert isinstance(following, bytes)
    assert isinstance(accepts, bytes)
    state = 0
    for byte in text:
        state = following[state * CLASSES + classes[byte]]
    return bool(accepts[state])


@settings(max_examples=500)
@given(globs, names, st.lists(names, max_size=2))
def test_base_names(pattern: str, name: str, directories: list[str]) -> None:
    """A glob without a slash is matched against the last component of a path."""
    glob = compile_glob(pattern)
    path = "/".join([*directories, name]).encode()

    assert fnmatch.fnmatchcase(name, pattern) == glob.matches(path) == dfa_matches(glob, path)


@settings(max_examples=500)
@given(globs, names, names)
def test_whole_paths(pattern: str, left: str, right: str) -> None:
    """A glob for whole paths is matched against all of a path, and a star matches slashes."""
    glob = compile_glob(pattern, whole=True)
    path = f"{left}/{right}"

    expected = fnmatch.fnmatchcase(path, pattern)
    assert expected == glob.matches(path.encode()) == dfa_matches(glob, path.encode())


any_glob = st.text(st.sampled_from("ab[]!-*?/.\\^$\n\x01é"), min_size=1, max_size=10)
any_path = st.lists(st.sampled_from([*b"ab[]!-/.\\^$\n\x01 ", *"é".encode(), 0xFF]), max_size=10)


@settings(max_examples=1000)
@given(any_glob, any_path.map(bytes), st.booleans())
def test_anything(pattern: str, path: bytes, whole: bool) -> None:
    """Broken brackets, control characters and bad UTF-8 are matched as fnmatch does."""
    glob = compile_glob(pattern, whole)
    name = path.rpartition(b"/")[2] if glob.base_name else path

    expected = fnmatch.fnmatchcase(name.decode("latin-1"), pattern.encode().decode("latin-1"))
    assert expected == glob.matches(path) == dfa_matches(glob, path)


@pytest.mark.parametrize(
    ("pattern", "name"), [("*a" + "?" * 12, "xa" + "b" * 12), (ALL_LETTERS, ALL_LETTERS)]
)
def test_large_globs_are_left_to_user_space(pattern: str, name: str) -> None:
    """A glob whose DFA would not fit still matches, by the regular expression."""
    glob = compile_glob(pattern)

    assert {} == glob.variables
    assert glob.matches(os.fsencode(name))
    assert not glob.matches(os.fsencode(name[:-1]))


@pytest.mark.parametrize("pattern", ["a*b", "a?b", "a b", "a[ ]b", "a[!x]b"])
def test_arguments(pattern: str) -> None:
    """The NUL between arguments counts as a blank."""
    glob = compile_glob(pattern, whole=True)

    assert (True, True) == (dfa_matches(glob, b"a\0b"), glob.matches(b"a\0b"))
    assert not dfa_matches(glob, b"a\0c")


@pytest.mark.parametrize("pattern", ["", "a\0b"])
def test_impossible_globs(pattern: str) -> None:
    """A glob that no name can match is an error, not an empty result."""
    with pytest.raises(UsageError):
        compile_glob(pattern)
