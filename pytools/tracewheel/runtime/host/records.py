# SPDX-License-Identifier: BSD-2-Clause
"""Values with named members, of a class that is quick to import.

Named tuples with types need the module typing. It takes too long to import: no module that a tool
imports when it starts uses it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

    from typing_extensions import Self, dataclass_transform
else:

    def dataclass_transform(**_settings):  # noqa: D103
        return lambda decorated: decorated


@dataclass_transform(frozen_default=True)
class Record:
    """A value that cannot be changed, with the members that its class declares by annotations.

    Like a named tuple, it is made of values in the order of the members or by name, members may
    have defaults, and two records with equal members are equal. But it is not a tuple.
    """

    _defaults: ClassVar[dict[str, Any]]
    _names: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        cls._names = tuple(cls.__annotations__)
        cls._defaults = {name: cls.__dict__[name] for name in cls._names if name in cls.__dict__}

    def __init__(self, *values: Any, **named: Any) -> None:
        members = {**self._defaults, **dict(zip(self._names, values)), **named}
        if len(values) > len(self._names) or members.keys() != set(self._names):
            raise TypeError(f"{type(self).__name__} has the members {', '.join(self._names)}")
        self.__dict__.update(members)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed: use _replace()")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__[name] for name in self._names))

    def __repr__(self) -> str:
        members = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self._names)
        return f"{type(self).__name__}({members})"

    def _replace(self, **changes: Any) -> Self:
        """Return a copy with some members changed."""
        return type(self)(**{**self.__dict__, **changes})
