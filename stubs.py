# SPDX-License-Identifier: BSD-2-Clause
"""Write what type checkers and editors know of the library: classes of events, and stubs.

The build calls this when the shim is there, as it knows the types in the BPF objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tracewheel.runtime.library import names_of, parameters_of
from tracewheel.runtime.shapes.counts import WHEN
from tracewheel.runtime.show.lines import CAN_BE_CUT, class_name
from tracewheel.runtime.show.meaning import TABLES, meaning_of
from tracewheel.runtime.spec.catalogue import load_tool, tool_names
from tracewheel.runtime.spec.commandline import positionals_of
from tracewheel.runtime.spec.options import columns_of, options_of
from tracewheel.runtime.spec.request import Request
from tracewheel.runtime.spec.shapes import Histogram, Stacks, Stream, Top
from tracewheel.runtime.trace.object import BpfObject, read_object

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from tracewheel.runtime.spec.shapes import Option, Shape
    from tracewheel.runtime.trace.btf import Member

# What the JSON of a kind of runtime/show/meaning.py is in Python. It is null, and None, where there
# is no such number or name, and where a text could not be read.
_TYPES = {
    **dict.fromkeys(("signed", "unsigned", "epoch"), "int"),
    **dict.fromkeys(("chars", "address"), "str"),
    **{
        kind: "str | None" if table.kind == "optional_name" else "str"
        for kind, table in TABLES.items()
    },
    **dict.fromkeys(("span", "result", "optional", "exit"), "int | None"),
    **dict.fromkeys(("text", "path"), "str | None"),
    "args": "list[str] | None",
    **dict.fromkeys(("stack", "user_stack"), "list[str]"),
}
# The parsers of options that take text alone, by what they return. Others take numbers, too.
_OF_TEXT = ("str", "bytes", "Any")

_EVENTS = '''\
# SPDX-License-Identifier: BSD-2-Clause
"""The events that tools yield, and the rows of their reports. Made by the build.

Times are nanoseconds since 1970, and durations are nanoseconds. A text is None if it could not be
read, a number or a name if there is none. The options beside a field fill it; without them it
is None. NAME_truncated is true if only the beginning of NAME was kept.
"""

from __future__ import annotations

from typing import NamedTuple
'''
_STUB = """\
# SPDX-License-Identifier: BSD-2-Clause
# Made by the build.
from collections.abc import Iterable
from typing import Literal, overload

from tracewheel.events import {classes}
from tracewheel.runtime.host.errors import BpfError as BpfError
from tracewheel.runtime.host.errors import NotPermitted as NotPermitted
from tracewheel.runtime.host.errors import NotSupported as NotSupported
from tracewheel.runtime.host.errors import TargetGone as TargetGone
from tracewheel.runtime.host.errors import UsageError as UsageError
from tracewheel.runtime.library import Tracing
from tracewheel.runtime.shapes.stacks import Stack
from tracewheel.runtime.spec.distribution import Histogram
from tracewheel.runtime.spec.shapes import Shape
"""
_CLASS = '''
class _{name}:
    """{description}"""

    name: str
    shape: Shape
'''


class Variant(NamedTuple):
    """A shape that a tool may have, and the option that makes it so, if one does."""

    tool: str
    shape: Shape
    option: Option | None

    @property
    def chosen(self) -> dict[str, Any]:
        """The options that all requests for this variant have."""
        return {"json": True, **({self.option.dest: True} if self.option else {})}

    @property
    def names(self) -> list[str]:
        """The names, of the option that makes it so, by which trace() takes that option."""
        return names_of(self.option) if self.option else [""]


class Field(NamedTuple):
    """A field of a class of events."""

    name: str
    type: str
    default: str = ""
    comment: str = ""

    @property
    def line(self) -> str:
        """The line that declares it."""
        default = f" = {self.default}" if self.default else ""
        comment = f"  # {self.comment}" if self.comment else ""
        if hasattr(tuple, self.name):
            comment = f"  # type: ignore  # a tuple has a method of that name{comment}"
        return f"    {self.name}: {self.type}{default}{comment}\n"


class EventClass(NamedTuple):
    """A class of the events, or of the rows, of a tool."""

    name: str
    fields: list[Field]

    def text(self, tool: str) -> str:
        """Return the class in Python. Fields without a default have to come first."""
        fields = sorted(self.fields, key=lambda field: bool(field.default))
        lines = "".join(field.line for field in fields)
        return f'\n\nclass {self.name}(NamedTuple):\n    """What {tool} yields."""\n\n{lines}'


def write_types(package: Path) -> None:
    """Write the modules into a package that is built."""
    events = _EVENTS
    tools = ""
    classes = []
    for name in tool_names():
        shape, description = load_tool(name)
        variants = variants_of(name, shape)
        found = BpfObject(read_object(name))
        tools += _CLASS.format(name=name.capitalize(), description=description)
        for variant in variants:
            event_class = class_of(variant, found)
            for chosen_by in variant.names:
                yielded = yielded_by(variant, event_class)
                tools += method_of(variant, variants, yielded, chosen_by)
            if event_class:
                events += event_class.text(name)
                classes.append(event_class.name)
        found.close()
        tools += f"\n{name}: _{name.capitalize()}\n"
    (package / "events.py").write_text(events)
    (package / "__init__.pyi").write_text(_STUB.format(classes=", ".join(classes)) + tools)


def variants_of(name: str, shape: Shape) -> list[Variant]:
    """Return the variants of a tool, in the order in which the runtime looks for their options."""
    others = [Variant(name, o.as_shape, o) for o in options_of(shape) if o.as_shape]
    return [*others, Variant(name, shape, None)]


def class_of(variant: Variant, found: BpfObject) -> EventClass | None:
    """Return the class of what a variant yields, if it is one of its own."""
    maps = {each.name: each for each in found.maps()}
    shape = variant.shape
    if isinstance(shape, Stream):
        record = maps[shape.ring].record
        fields = fields_of_event(shape, found.members(record))
        return EventClass(class_name(variant.tool, record), fields)
    if isinstance(shape, (Histogram, Stacks)):
        return None
    sums = maps[shape.sums]
    struct = sums.value
    members = found.members(struct)
    if isinstance(shape, Top):
        struct = found.members(sums.key)[0].meaning
        members = [*found.members(struct), *members]
    return EventClass(class_name(variant.tool, struct), fields_of_row(variant, members))


def yielded_by(variant: Variant, event_class: EventClass | None) -> str:
    """Return the type of what iterating over a variant yields."""
    if not event_class:
        return "list[Histogram]" if isinstance(variant.shape, Histogram) else "list[Stack]"
    return event_class.name if isinstance(variant.shape, Stream) else f"list[{event_class.name}]"


def type_of(member: Member) -> str:
    """Return the type that a member has in Python."""
    return _TYPES[meaning_of(member).json]


def fields_of_member(member: Member, type_: str, options: str | None) -> list[Field]:
    """Return the field of a member, and with that of a cgroup the one of its container.

    ``options`` names the options that fill it; without any, None, it is always filled.
    """
    found = [(member.name, type_)]
    if member.meaning == "ev_cgroup":
        found.append(("container", "str"))
    if options is None:
        return [Field(name, type_) for name, type_ in found]
    return [Field(name, f"{type_} | None", "None", options) for name, type_ in found]


def fields_of_event(shape: Stream, members: list[Member]) -> list[Field]:
    """Return the fields of an event: those that runtime/shapes/records.py shows."""
    fields = []
    for member in members:
        kind = meaning_of(member).json
        if member.name.startswith("_") or not kind:
            continue
        on_request = "stack" in kind or member.meaning == "ev_cgroup"
        options = options_that_show(shape, member) if on_request else None
        fields += fields_of_member(member, type_of(member), options)
        if kind in CAN_BE_CUT:
            fields.append(Field(f"{member.name}_truncated", "bool", "False"))
    return fields


def fields_of_row(variant: Variant, members: list[Member]) -> list[Field]:
    """Return the fields of a row of sums: those that runtime/shapes/counts.py shows."""
    shape = variant.shape
    columns = Request(shape, variant.chosen).columns()
    hidden = {header for option in options_of(shape) for header in option.hides}
    always = {column.member for column in columns if column.header not in hidden}
    with_columns = {column.member for column in columns_of(shape)}
    fields = [Field(member.name, "int") for member in WHEN if member.name in ("time", "interval")]
    for member in members:
        if member.name in with_columns:
            options = None if member.name in always else options_that_show(shape, member)
            type_ = type_of(member).removesuffix(" | None")  # what is summed up is there
            fields += fields_of_member(member, type_, options)
    return fields


def options_that_show(shape: Shape, member: Member) -> str:
    """Return the options that show a member's columns, and those that hide them."""
    headers = {column.header for column in columns_of(shape) if column.member == member.name}
    options = options_of(shape)
    with_it = [option.dest for option in options if headers.intersection(option.shows)]
    without = [option.dest for option in options if headers.intersection(option.hides)]
    return ", ".join([*with_it, *(f"not with {dest}" for dest in without if dest not in with_it)])


def method_of(variant: Variant, variants: list[Variant], yielded: str, chosen_by: str) -> str:
    """Return the method trace() of a variant of a tool.

    ``chosen_by`` is the name of the option that makes it so, one of several that it may have.
    """
    options = [each.option for each in variants if each.option]
    if variant.option:
        options = options[: options.index(variant.option)]
    earlier = {option.dest for option in options}
    lines = []
    explained = "        Trace with these options.\n\n"
    for option in parameters_of(variant.shape):
        explained += f"        {option.dest}: {option.help}\n"
        if option.dest in earlier:
            lines.append(f"{option.dest}: Literal[False] = False")
        elif variant.option and option.dest == variant.option.dest:
            lines.append(f"{chosen_by}: Literal[True]")
        else:
            lines.append(parameter_of(option))
    for positional in positionals_of(variant.shape):
        if positional.dest == chosen_by:
            continue
        explained += f"        {positional.dest}: {positional.help}\n"
        lines.append(f"{positional.dest}: {_accepted(positional.parse)} | None = None")
    parameters = "".join(f"        {line},\n" for line in lines)
    text = explained.strip().replace("\\", "\\\\")
    decorator = "    @overload\n" if len(variants) > 1 else ""
    return (
        f"\n{decorator}    def trace(\n        self,\n        *,\n{parameters}"
        f'    ) -> Tracing[{yielded}]:\n        """{text}\n        """\n'
    )


def parameter_of(option: Option) -> str:
    """Return how a method declares an option."""
    if not option.parse:
        return f"{option.dest}: bool = False"
    accepted = _accepted(option.parse)
    if option.repeat or _returned_by(option.parse).endswith(", ...]"):
        accepted = f"{accepted} | Iterable[{accepted}]"
    return f"{option.dest}: {accepted} | None = None"


def _returned_by(parse: Callable[[str], Any]) -> str:
    """Return the type of what a parser returns, as it is declared."""
    return "str" if parse is str else str(parse.__annotations__.get("return"))


def _accepted(parse: Callable[[str], Any]) -> str:
    """Return the type of what a parser takes, which is told by what it returns."""
    returned = _returned_by(parse)
    if returned in _OF_TEXT:
        return "str"
    return "float | str" if returned == "float" else "int | str"
