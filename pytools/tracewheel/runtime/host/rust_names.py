# SPDX-License-Identifier: BSD-2-Clause
"""Names of Rust functions as in the source, from what the compiler calls "v0" mangled names.

The grammar is that of Rust's RFC 2603. Hashes of crates and lifetimes are left out, as they
say nothing to a reader. Names come from other people's files: the work for one has a
bound, and a name that does not follow the grammar is no Rust name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# A name can refer back to its own parts, so that a short one stands for one without end. Of the
# names of the Rust compiler itself none has more than 220 parts.
_STEPS = 1000
_DEPTH = 64  # of parts in parts
_BASIC_TYPES = {
    "a": "i8",
    "b": "bool",
    "c": "char",
    "d": "f64",
    "e": "str",
    "f": "f32",
    "h": "u8",
    "i": "isize",
    "j": "usize",
    "l": "i32",
    "m": "u32",
    "n": "i128",
    "o": "u128",
    "p": "_",
    "s": "i16",
    "t": "u16",
    "u": "()",
    "v": "...",
    "x": "i64",
    "y": "u64",
    "z": "!",
}
_INTEGERS = "ahijlmnostxy"
_POINTERS = {"R": "&", "Q": "&mut ", "P": "*const ", "O": "*mut "}
_NAMESPACES = {"C": "closure", "S": "shim"}
_DIGITS = "0123456789"
_LOWER = "abcdefghijklmnopqrstuvwxyz"
_UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BASE_62 = _DIGITS + _LOWER + _UPPER
_LAST_CHARACTER = 0x10FFFF
_IDENTIFIER = set(_BASE_62 + "_")


def demangle(symbol: str) -> str | None:
    """Return the name of a function as in the source; None if it is no mangled Rust name."""
    if not symbol.startswith("_R"):
        return None
    parser = _Parser(symbol[2:])
    try:
        name = parser.path()
        if parser.peek() in _UPPER:
            parser.path()  # the crate that made it of a generic function
        suffix = parser.rest()
        name.encode()
    except ValueError:
        return None
    if suffix[:1] not in ("", ".", "$"):
        return None
    return name if suffix.startswith(".llvm.") else name + suffix


class _Parser:
    """Read a mangled name from left to right. Methods raise ValueError where it is none."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._steps = 0
        self._depth = 0

    def peek(self) -> str:
        """Return the next character, or "$" at the end."""
        return self._text[self._at : self._at + 1] or "$"

    def rest(self) -> str:
        """Return what has not been read."""
        return self._text[self._at :]

    def _take(self) -> str:
        if self._at == len(self._text):
            raise ValueError("cut off")
        self._at += 1
        return self._text[self._at - 1]

    def _skip(self, wanted: str) -> bool:
        found = self.peek() == wanted
        if found:
            self._at += 1
        return found

    def _enter(self) -> None:
        self._steps += 1
        self._depth += 1
        if self._steps > _STEPS or self._depth > _DEPTH:
            raise ValueError("too long")

    def path(self, in_type: bool = False) -> str:
        """Read a path: crate, modules, types and function."""
        self._enter()
        name = self._path(self._take(), in_type)
        self._depth -= 1
        return name

    def _path(self, kind: str, in_type: bool) -> str:
        if kind == "C":
            return self._identifier()[0]
        if kind == "N":
            return self._nested(self._take(), in_type)
        if kind == "M":
            self._implementation()
            return f"<{self._type()}>"
        if kind in ("X", "Y"):
            if kind == "X":
                self._implementation()
            return f"<{self._type()} as {self.path(in_type=True)}>"
        if kind == "I":
            name = self.path(in_type)
            arguments = ", ".join(self._generic_arguments())
            separator = "" if in_type else "::"
            return f"{name}{separator}<{arguments}>" if arguments else name
        if kind == "B":
            return self._back_reference(lambda: self.path(in_type))
        raise ValueError("no path")

    def _implementation(self) -> None:
        """Read where an impl block is; its type says more."""
        self._disambiguator()
        self.path()

    def _nested(self, namespace: str, in_type: bool) -> str:
        outer = self.path(in_type)
        name, number = self._identifier()
        if namespace in _LOWER:
            return f"{outer}::{name}" if name else outer
        if namespace not in _UPPER:
            raise ValueError("no namespace")
        kind = _NAMESPACES.get(namespace, namespace)
        return f"{outer}::{{{kind}{':' if name else ''}{name}#{number}}}"

    def _generic_arguments(self) -> list[str]:
        arguments = []
        while not self._skip("E"):
            if self._skip("L"):
                self._base_62()
            else:
                arguments.append(self._constant() if self._skip("K") else self._type())
        return arguments

    def _back_reference(self, read: Callable[[], str]) -> str:
        """Read a part again that stands earlier in the name."""
        here = self._at - 1
        place = self._base_62()
        if place >= here:
            raise ValueError("refers forward")
        back, self._at = self._at, place
        found = read()
        self._at = back
        return found

    def _type(self) -> str:
        self._enter()
        name = self._type_of(self._take())
        self._depth -= 1
        return name

    def _type_of(self, kind: str) -> str:
        if kind in _BASIC_TYPES:
            return _BASIC_TYPES[kind]
        if kind in _POINTERS:
            if self._skip("L"):
                self._base_62()
            return _POINTERS[kind] + self._type()
        if kind == "S":
            return f"[{self._type()}]"
        if kind == "A":
            return f"[{self._type()}; {self._constant()}]"
        if kind == "T":
            types = self._types()
            return f"({types[0]},)" if len(types) == 1 else f"({', '.join(types)})"
        if kind == "F":
            return self._function()
        if kind == "D":
            return self._dynamic()
        if kind == "B":
            return self._back_reference(self._type)
        return self._path(kind, in_type=True)

    def _types(self) -> list[str]:
        types = []
        while not self._skip("E"):
            types.append(self._type())
        return types

    def _function(self) -> str:
        self._binder()
        unsafe = "unsafe " if self._skip("U") else ""
        convention = ""
        if self._skip("K"):
            name = "C" if self._skip("C") else self._bare_identifier().replace("_", "-")
            convention = f'extern "{name}" '
        arguments = ", ".join(self._types())
        result = self._type()
        returns = "" if result == "()" else f" -> {result}"
        return f"{unsafe}{convention}fn({arguments}){returns}"

    def _dynamic(self) -> str:
        self._binder()
        traits = []
        while not self._skip("E"):
            traits.append(self._trait())
        if self._take() != "L":
            raise ValueError("no lifetime")
        self._base_62()
        return f"dyn {' + '.join(traits)}"

    def _trait(self) -> str:
        name = self.path(in_type=True)
        bindings = []
        while self._skip("p"):
            bindings.append(f"{self._bare_identifier()} = {self._type()}")
        if not bindings:
            return name
        if name.endswith(">"):
            return f"{name[:-1]}, {', '.join(bindings)}>"
        return f"{name}<{', '.join(bindings)}>"

    def _binder(self) -> None:
        if self._skip("G"):
            self._base_62()

    def _constant(self) -> str:
        self._enter()
        value = self._constant_of(self._take())
        self._depth -= 1
        return value

    def _constant_of(self, kind: str) -> str:
        if kind == "p":
            return "_"
        if kind == "B":
            return self._back_reference(self._constant)
        sign = "-" if kind in _INTEGERS and self._skip("n") else ""
        value = self._hexadecimal()
        if kind in _INTEGERS:
            return f"{sign}{value}"
        if kind == "b" and value <= 1:
            return "true" if value else "false"
        if kind == "c" and value <= _LAST_CHARACTER:
            return f"'{chr(value)}'"
        raise ValueError("a constant of another type")

    def _hexadecimal(self) -> int:
        digits, found, rest = self.rest().partition("_")
        if not found or set(digits) - set("0123456789abcdef"):
            raise ValueError("no number")
        self._at = len(self._text) - len(rest)
        return int(digits or "0", 16)

    def _base_62(self) -> int:
        if self._skip("_"):
            return 0
        value = 0
        while not self._skip("_"):
            value = value * 62 + _BASE_62.index(self._take())
        return value + 1

    def _disambiguator(self) -> int:
        return self._base_62() + 1 if self._skip("s") else 0

    def _identifier(self) -> tuple[str, int]:
        number = self._disambiguator()
        return self._bare_identifier(), number

    def _bare_identifier(self) -> str:
        is_encoded = self._skip("u")
        length = self._decimal()
        self._skip("_")
        name = self._text[self._at : self._at + length]
        if len(name) < length or set(name) - _IDENTIFIER:
            raise ValueError("no identifier")
        self._at += length
        if is_encoded:
            plain, _, inserted = name.rpartition("_")
            encoded = f"{plain}-{inserted}" if plain else inserted
            return encoded.encode().decode("punycode")
        return name

    def _decimal(self) -> int:
        if self._skip("0"):
            return 0
        begin = self._at
        while self.peek() in _DIGITS:
            self._at += 1
        return int(self._text[begin : self._at])
