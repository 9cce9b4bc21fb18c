# SPDX-License-Identifier: BSD-2-Clause
"""Where the functions of an ELF file are. The file may be anybody's: nothing in it is trusted."""

from __future__ import annotations

import os
import struct

_MOST = 1 << 24  # bytes of a table; a forged file may claim to have any number
_SHT_SYMTAB, _SHT_DYNSYM, _STT_FUNC = 2, 11, 2
_NAME, _TYPE, _ADDRESS, _OFFSET, _SIZE, _LINK = 0, 1, 3, 4, 5, 6  # of a section header


def find_functions(fd: int, names: tuple[str, ...]) -> dict[str, int]:
    """Return the offsets in the file of those functions that it defines itself."""
    try:
        return _find(fd, names)
    except (struct.error, IndexError, OSError, OverflowError):
        return {}


def _find(fd: int, names: tuple[str, ...]) -> dict[str, int]:
    head = os.pread(fd, 64, 0)
    if head[:4] != b"\x7fELF" or head[5] != 1:  # little-endian
        return {}
    wide = head[4] == 2
    header = struct.Struct("<IIQQQQIIQQ" if wide else "<10I")
    symbol = struct.Struct("<IBBHQQ" if wide else "<IIIBBH")
    (at,) = struct.unpack_from("<Q" if wide else "<I", head, 40 if wide else 32)
    (count,) = struct.unpack_from("<H", head, 60 if wide else 48)
    sections = list(header.iter_unpack(os.pread(fd, count * header.size, at)))
    found: dict[str, int] = {}
    for section in sorted(sections, key=lambda section: -section[_TYPE]):
        if section[_TYPE] not in (_SHT_DYNSYM, _SHT_SYMTAB) or names[0] in found:
            continue
        texts = _content(fd, sections[section[_LINK]])
        symbols = _content(fd, section)
        wanted = {at: name for name in names for at in _places(texts, name.encode() + b"\0")}
        for fields in symbol.iter_unpack(symbols[: len(symbols) // symbol.size * symbol.size]):
            if fields[0] not in wanted:
                continue
            info, home, value = (
                (fields[1], fields[3], fields[4]) if wide else (fields[3], fields[5], fields[1])
            )
            if info & 15 == _STT_FUNC and 0 < home < len(sections) and value:
                offset = value - sections[home][_ADDRESS] + sections[home][_OFFSET]
                if 0 <= offset < 1 << 63:
                    found.setdefault(wanted[fields[0]], offset)
    return found


def _content(fd: int, section: tuple[int, ...]) -> bytes:
    return os.pread(fd, min(section[_SIZE], _MOST), section[_OFFSET])


def _places(texts: bytes, name: bytes) -> list[int]:
    """Return where a name is: also as the end of another, which linkers let share its bytes."""
    places = []
    at = texts.find(name)
    while at >= 0:
        places.append(at)
        at = texts.find(name, at + 1)
    return places
