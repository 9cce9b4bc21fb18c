# SPDX-License-Identifier: BSD-2-Clause
"""The flags of the kernel's allocations of memory (GFP), by the names that its own log has.

Their numbers change from kernel to kernel. Where tracefs can be read, the kernel tells all names.
Elsewhere its types tell the bits, since Linux commit 772dd0342727 ("mm: enumerate all gfp flags")
(in v6.9), but not the names of what is made up of several bits, such as GFP_KERNEL.
"""

from __future__ import annotations

import ast
import functools
import operator
import re

from tracewheel.runtime.host.errors import NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# An event whose format says how the flags are printed.
_FORMAT = "/sys/kernel/tracing/events/kmem/mm_page_alloc/format"
_FLAG = re.compile(r'\{([^{}"]+), "(\w+)"\}')
_CAST = re.compile(r"\(\s*(?:unsigned long|gfp_t)\s*\)")
_SUFFIX = re.compile(r"\b(0x[0-9a-fA-F]+|\d+)[uUlL]+\b")
_OPERATORS = {ast.BitOr: operator.or_, ast.BitAnd: operator.and_, ast.LShift: operator.lshift}
_FIRST_BIT, _BOUND = "___GFP_DMA_BIT", "___GFP_LAST_BIT"


def flags(number: int) -> str:
    """Return the names of the flags, as the kernel's log prints them: GFP_KERNEL|__GFP_ZERO."""
    names, rest = [], number
    for mask, name in _names():
        if mask and rest & mask == mask:
            names.append(name)
            rest &= ~mask
    if rest or not names:
        names.append(hex(rest))
    return "|".join(names)


@functools.cache
def _names() -> tuple[tuple[int, str], ...]:
    """Return masks with their names, in the order in which they are looked for."""
    try:
        with open(_FORMAT) as file:
            found = parse_format(file.read())
    except OSError:
        found = ()
    return found or tuple(_bits())


def parse_format(text: str) -> tuple[tuple[int, str], ...]:
    """Return the masks and names in the format of an event; none if they are not understood."""
    try:
        return tuple((_value_of(expression), name) for expression, name in _FLAG.findall(text))
    except (SyntaxError, ValueError):
        return ()


def _value_of(expression: str) -> int:
    """Return the value of a constant expression of C that has bits alone."""
    plain = _SUFFIX.sub(r"\1", _CAST.sub("", expression))
    return _evaluate(ast.parse(plain.strip(), mode="eval").body)


def _evaluate(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        return ~_evaluate(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        combine = _OPERATORS[type(node.op)]
        return int(combine(_evaluate(node.left), _evaluate(node.right)))
    raise ValueError(f"unknown expression: {ast.dump(node)}")


def _bits() -> Iterator[tuple[int, str]]:
    from tracewheel.runtime.host.kernel_types import kernel_enum_with

    try:
        values = kernel_enum_with(_FIRST_BIT)
    except NotSupported:
        return
    for name, bit in values.items():
        if name == _BOUND:
            continue
        yield 1 << bit, name.removeprefix("_").removesuffix("_BIT")
