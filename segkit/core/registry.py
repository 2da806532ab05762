"""Families of named classes: encoders, necks, heads, losses ..., listed, checked, built by name.

A family is an abstract class, a member is a final subclass that names itself::

    class Encoder(nn.Module, Registrable, family="encoder"): ...
    class MyEncoder(Encoder, name="mine"): ...

    Encoder.names("m*")                 # ['mine']
    Encoder.build("mine", in_channels=1)

Options are checked against the member's signature, names and types, before anything is built.
"""

from __future__ import annotations

import fnmatch
import inspect
import re
import types
import typing
from abc import ABCMeta
from collections.abc import Iterable
from dataclasses import is_dataclass
from typing import Any, ClassVar

from segkit.core.errors import SegkitError, all_at_once, did_you_mean

if typing.TYPE_CHECKING:
    from typing import Self


class NamedMeta(ABCMeta):
    """Takes the class keyword ``name`` past ABCMeta, which in Python 3.10 has a parameter of it."""

    def __new__(
        mcls, cls_name: str, bases: tuple[type, ...], body: dict[str, Any], /, **keywords: Any
    ) -> Any:
        """Hand ``name`` on as ``member``, to __init_subclass__."""
        if "name" in keywords:
            keywords["member"] = keywords.pop("name")
        return super().__new__(mcls, cls_name, bases, body, **keywords)

    def __init__(cls, cls_name: str, bases: tuple[type, ...], body: Any, /, **_: Any) -> None:
        super().__init__(cls_name, bases, body)


class Registrable(metaclass=NamedMeta):
    """Base of every family. See the module's docstring for the use."""

    family: ClassVar[str] = ""
    name: ClassVar[str] = ""
    # Options, with their types, that a family's build() takes over and above those of the member.
    build_options: ClassVar[dict[str, Any]] = {}
    _members: ClassVar[dict[str, type[Any]]]
    _root: ClassVar[type[Any]]

    def __init_subclass__(
        cls, *, member: str | None = None, family: str | None = None, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        if family is not None:
            cls.family, cls._members, cls._root = family, {}, cls
            return
        if member is None:
            raise SegkitError(
                f"class {cls.__qualname__} needs a name to be found by: "
                f'class {cls.__name__}({cls._root.__name__}, name="...").'
            )
        if cls.name:
            raise SegkitError(
                f"class {cls.__qualname__} subclasses '{cls.name}', which is final: subclass "
                f"{cls._root.__name__} instead, and hold the other {cls.family} as an attribute."
            )
        known = cls._members.get(member)
        # a notebook cell that is run twice, a reloaded module
        again = known is not None and (known.__module__, known.__qualname__) == (
            cls.__module__,
            cls.__qualname__,
        )
        if known is not None and not again:
            raise SegkitError(
                f"two classes name themselves {cls.family} '{member}': {_place(known)} and"
                f" {_place(cls)}. Rename one of them."
            )
        cls.name = member
        cls._members[member] = cls

    @classmethod
    def names(cls, pattern: str = "*") -> list[str]:
        """Names of the members that match the wildcard pattern, in natural order."""
        _load_plugins()
        known = [name for name in cls._known_names() if fnmatch.fnmatchcase(name, pattern)]
        return sorted(known, key=_natural)

    @classmethod
    def build(cls, name: str, /, **options: Any) -> Self:
        """Build the member of that name.

        Raises:
            SegkitError: The name or an option is unknown, or an option missing or of another type.
        """
        member, options = cls.checked(name, options)
        return member(**options)

    @classmethod
    def checked(cls, name: str, options: dict[str, Any]) -> tuple[type[Self], dict[str, Any]]:
        """The class behind a name and the options as their types want them; raises like build()."""
        member, resolved = cls.resolve(name, options)
        checked, problems = check_options(member, resolved)
        if problems:
            implied = resolved.keys() - options.keys()
            raise all_at_once(
                f"{cls.family} '{name}' cannot be built with these options:",
                [*problems, f"its signature is {name}{signature(member, implied)}"],
            )
        return member, checked

    @classmethod
    def resolve(cls, name: str, options: dict[str, Any]) -> tuple[type[Self], dict[str, Any]]:
        """The class behind a name and the options to build it with.

        Raises:
            SegkitError: The name is unknown.
        """
        _load_plugins()
        found = cls._members.get(name)
        if found is None:
            raise SegkitError(
                f"{cls.family} '{name}' is not known.{did_you_mean(str(name), cls._known_names())}"
                f" List them with segkit.{cls._root.__name__}.names()."
            )
        return found, dict(options)

    @classmethod
    def _known_names(cls) -> list[str]:
        return list(cls._members)


def check_options(
    member: type[Registrable], options: dict[str, Any], given: Iterable[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Check options against the signature of a class.

    Args:
        member: The class whose ``__init__`` is to take the options.
        options: The options by name.
        given: Names that somebody else fills in: they are not reported as missing.

    Returns:
        The options, converted to the annotated types, and the problems, each as a sentence.
    """
    parameters, hints = _parameters(member), _hints(member)
    known = [*parameters, *member.build_options]
    problems = []
    checked = dict(options)
    for key, value in options.items():
        if key not in known:
            problems.append(
                f"option '{key}' is not known.{did_you_mean(key, known)}"
                f" Known: {', '.join(known) or 'none'}."
            )
        elif key in hints:
            checked[key], what = _convert(value, hints[key])
            if what:
                problems.append(f"option '{key}' is {value!r}: {what}.")
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in options and key not in given:
            problems.append(f"option '{key}' is missing.")
    return checked, problems


def signature(member: type[Registrable], hidden: Iterable[str] = ()) -> str:
    """The options of a class with their types and defaults, for messages.

    Example:
        >>> class Shape(Registrable, family="shape"): ...
        >>> class Square(Shape, name="square"):
        ...     def __init__(self, side: int, fill: typing.Literal["red", "blue"] = "red"): ...
        >>> signature(Square)
        "(side: int, fill: 'red' | 'blue' = 'red')"
    """
    hints = _hints(member)
    shown = {key: parameter.default for key, parameter in _parameters(member).items()}
    shown |= dict.fromkeys(member.build_options, inspect.Parameter.empty)
    options = []
    for key, default in shown.items():
        if key not in hidden:
            kind = f": {_plain(hints[key])}" if key in hints else ""
            options.append(
                f"{key}{kind}" + ("" if default is inspect.Parameter.empty else f" = {default!r}")
            )
    return f"({', '.join(options)})"


def _parameters(member: type[Registrable]) -> dict[str, inspect.Parameter]:
    """The options of __init__; a class without its own would show *args and **kwargs of torch."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(member).parameters
    return {key: p for key, p in parameters.items() if p.kind not in variadic}


def _hints(member: type[Registrable]) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(member.__init__, include_extras=True)
    except NameError:  # types of a plugin that are imported for type checkers only
        hints = {}
    return hints | member.build_options


def _convert(value: Any, hint: Any) -> tuple[Any, str]:
    """The value as the type wants it, and what is wrong with it, if anything."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    kinds = _alternatives(hint)
    if isinstance(value, bool) and not {bool, Any, object} & kinds and {int, float} & kinds:
        return value, "Input should be a number, not a boolean"  # pydantic would make 1 of True
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(
            hint, config=ConfigDict(arbitrary_types_allowed=True)
        )
        return adapter.validate_python(value), ""
    except ValidationError as error:
        fields = any(is_dataclass(kind) for kind in kinds)  # with keys of their own to be named
        said = [
            f"{detail['loc'][-1]}: {detail['msg']}" if fields and detail["loc"] else detail["msg"]
            for detail in error.errors()
        ]
        return value, "; ".join(dict.fromkeys(said))


def _alternatives(hint: Any) -> set[Any]:
    """The types of a union, or the type itself, without what annotates it."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _alternatives(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return {kind for part in typing.get_args(hint) for kind in _alternatives(part)}
    return {hint}


def _plain(hint: Any) -> str:
    """A type as a user writes values of it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _plain(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_plain(part) for part in arguments)
    if origin is typing.Literal:
        return " | ".join(repr(value) for value in arguments)
    if arguments:
        inner = ", ".join("..." if part is ... else _plain(part) for part in arguments)
        return f"{getattr(origin, '__name__', origin)}[{inner}]"
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _load_plugins() -> None:
    from segkit.core import plugins

    plugins.load()


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _place(cls: type[Any]) -> str:
    try:
        line = inspect.getsourcelines(cls)[1]
        return f"{cls.__qualname__} ({inspect.getsourcefile(cls)}:{line})"
    except (OSError, TypeError):  # defined at a prompt
        return f"{cls.__module__}.{cls.__qualname__}"
