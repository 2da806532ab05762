"""Families of classes that are built by name: encoders, necks, heads, losses and so on.

A family is an abstract class. A member is a final subclass that names itself::

    class Encoder(nn.Module, Registrable, ABC, family="encoder"): ...
    class MyEncoder(Encoder, name="mine"): ...

    Encoder.names("m*")                 # ['mine']
    Encoder.build("mine", in_channels=1)

The constructor's signature is the only place that states options, types and defaults. Options are
checked against it before anything is built. A family of segkit consists of the modules of its
package, so a new member needs no entry anywhere.
"""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Iterable
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from segkit.core import plugins
from segkit.core.errors import NO_PATH, SegkitError, all_at_once, did_you_mean

_UNTYPED: dict[type, Any] = {bool: bool, int: int | float, float: float, str: str}
"""What an option without an annotation takes, by the type of its default."""


class Registrable:
    """Base of every family. See the module's docstring for the use.

    Keyword-only parameters of a family's ``build`` are options that all its members take.
    """

    family: ClassVar[str] = ""
    name: ClassVar[str] = ""
    _members: ClassVar[dict[str, type[Any]]]
    _root: ClassVar[type[Any]]

    def __init_subclass__(
        cls, *, name: str | None = None, family: str | None = None, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        if family is not None:
            cls.family, cls._members, cls._root = family, {}, cls
            return
        if name is None:
            raise SegkitError(
                f"class {cls.__qualname__} needs a name to be found by: "
                f'class {cls.__name__}({cls._root.__name__}, name="...").'
            )
        if cls.name:
            raise SegkitError(
                f"class {cls.__qualname__} subclasses '{cls.name}', which is final: subclass "
                f"{cls._root.__name__} instead, and hold the other {cls.family} as an attribute."
            )
        known = cls._members.get(name)
        # a notebook cell that is run twice defines the same class again
        if known is not None and (known.__module__, known.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            raise SegkitError(
                f"two classes are named {cls.family} '{name}': {_find_place(known)} and"
                f" {_find_place(cls)}. Rename one of them."
            )
        cls.name = name
        cls._members[name] = cls

    @classmethod
    def members(cls) -> dict[str, type[Self]]:
        """The members by name, those of installed plugins included."""
        package = cls._root.__module__.rpartition(".")[0]
        if package.startswith("segkit."):
            _import_modules(package)
        plugins.load_installed()
        return cls._members

    @classmethod
    def known_names(cls) -> Iterable[str]:
        """All names that :meth:`build` takes."""
        return cls.members()

    @classmethod
    def names(cls, pattern: str = "*") -> list[str]:
        """The names that match the wildcard pattern, in natural order."""
        known = [name for name in cls.known_names() if fnmatch.fnmatchcase(name, pattern)]
        return sorted(known, key=_natural)

    @classmethod
    def build(cls, name: str, /, **options: Any) -> Self:
        """Build the member of that name.

        Raises:
            SegkitError: The name or an option is unknown, or an option is missing or has a wrong
                type.
        """
        member, options = cls.bind(name, options)
        return member(**options)

    @classmethod
    def bind(cls, name: str, options: dict[str, Any]) -> tuple[type[Self], dict[str, Any]]:
        """The class of a name, and the options converted to its types. Raises like build()."""
        member, resolved = cls.resolve(name, options)
        if lacking := sorted(getattr(member, "__abstractmethods__", ())):
            raise SegkitError(
                f"{cls.family} '{name}' ({member.__qualname__}) does not define"
                f" {', '.join(lacking)}: see segkit.{cls._root.__name__} for what they do."
            )
        bound, problems = check_options(member, resolved)
        if problems:
            implied = resolved.keys() - options.keys()
            raise all_at_once(
                f"{cls.family} '{name}' cannot be built with these options:",
                [*problems, f"its signature is {name}{signature(member, implied)}"],
            )
        return member, bound

    @classmethod
    def resolve(cls, name: str, options: dict[str, Any]) -> tuple[type[Self], dict[str, Any]]:
        """The class of a name, and the options to build it with.

        Raises:
            SegkitError: The name is unknown.
        """
        found = cls.members().get(name)
        if found is None:
            raise SegkitError(
                f"{cls.family} '{name}' is not known.{did_you_mean(str(name), cls.known_names())}"
                f" List them with segkit.{cls._root.__name__}.names(); your own need"
                " plugins=[FILE.py]."
            )
        return found, dict(options)


def check_options(
    member: type[Any], options: dict[str, Any], given: Iterable[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Check options against the signature of a class.

    Args:
        member: The class whose ``__init__`` is to take the options.
        options: The options by name.
        given: Names that are filled in elsewhere: not missing, and not to be chosen.

    Returns:
        The options, converted to the annotated types, and the problems, each as a sentence.
    """
    from pydantic import ValidationError

    parameters, hints = _list_parameters(member), _read_hints(member)
    adapters = _make_adapters(member)  # type: ignore[arg-type]  # classes are hashable
    known = options.keys() & parameters.keys()
    free = [key for key in parameters if key not in given]
    problems = [
        f"option '{key}' is not known.{did_you_mean(key, free)} Known: {', '.join(free) or 'none'}."
        for key in options
        if key not in known
    ]
    bound = dict(options)
    for key in sorted(known & hints.keys(), key=list(options).index):
        value, kinds = options[key], _split_union(hints[key])
        if isinstance(value, bool) and not {bool, Any, object} & kinds and {int, float} & kinds:
            # pydantic would turn True into 1
            problems.append(f"option '{key}' is {value}: Input should be a number, not a boolean.")
            continue
        if lacks_path(value, hints[key]):
            problems.append(f"option '{key}' is {value!r}: {NO_PATH}.")
            continue
        try:
            bound[key] = adapters[key].validate_python(value)
        except ValidationError as error:
            fields = any(is_dataclass(kind) for kind in kinds)  # then the keys are named too
            texts = [
                f"{e['loc'][-1]}: {e['msg']}" if fields and e["loc"] else e["msg"]
                for e in error.errors()
            ]
            problems.append(f"option '{key}' is {value!r}: {'; '.join(dict.fromkeys(texts))}.")
    problems += [
        f"option '{key}' is missing."
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty and key not in {*options, *given}
    ]
    return bound, problems


def lacks_path(value: Any, hint: Any) -> bool:
    """Whether a value for a type with paths is an empty string, or a list with one."""
    takes_path = hint is Path or any(lacks_path("", each) for each in typing.get_args(hint))
    return takes_path and "" in (value if isinstance(value, list | tuple) else [value])


def read_defaults(member: type[Any]) -> dict[str, Any]:
    """The options of a class that have a default, with it."""
    parameters = _list_parameters(member).values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def signature(member: type[Any], hidden: Iterable[str] = ()) -> str:
    """The options of a class with their types and defaults, for messages.

    Example:
        >>> class Shape(Registrable, family="shape"): ...
        >>> class Square(Shape, name="square"):
        ...     def __init__(self, side: int, fill: typing.Literal["red", "blue"] = "red"): ...
        >>> signature(Square)
        "(side: int, fill: 'red' | 'blue' = 'red')"
    """
    hints, options = _read_hints(member), []
    for key, parameter in _list_parameters(member).items():
        if key not in hidden:
            kind = f": {_format_type(hints[key])}" if key in hints else ""
            default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
            options.append(f"{key}{kind}{default}")
    return f"({', '.join(options)})"


def _list_parameters(member: type[Any]) -> dict[str, inspect.Parameter]:
    """The options of __init__, and those of the family's build(); *args and **kwargs are none."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    own = inspect.signature(member).parameters.values()
    shared = inspect.signature(member._root.build).parameters.values()
    found = [p for p in own if p.kind not in variadic]
    found += [p for p in shared if p.kind is inspect.Parameter.KEYWORD_ONLY]
    return {p.name: p for p in found}


def _read_hints(member: Any) -> dict[str, Any]:
    functions = (member._root.build, member.__init__)
    try:
        found = [typing.get_type_hints(function, include_extras=True) for function in functions]
    except NameError:  # types of a plugin that are imported for type checkers only
        return {}
    hints = found[0] | found[1]
    for key, parameter in _list_parameters(member).items():
        if key not in hints and type(parameter.default) in _UNTYPED:
            hints[key] = _UNTYPED[type(parameter.default)]
    return hints


@cache
def _make_adapters(member: Any) -> dict[str, Any]:
    from pydantic import ConfigDict, TypeAdapter

    config = ConfigDict(arbitrary_types_allowed=True)
    hints = _read_hints(member)
    return {
        key: TypeAdapter(hints[key], config=config)
        for key in _list_parameters(member)
        if key in hints
    }


def _split_union(hint: Any) -> set[Any]:
    """The types of a union, or the type itself, without what annotates it."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _split_union(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return {kind for part in typing.get_args(hint) for kind in _split_union(part)}
    return {hint}


def _format_type(hint: Any) -> str:
    """A type as a user writes its values."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _format_type(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_format_type(part) for part in arguments)
    if origin is typing.Literal:
        return " | ".join(repr(value) for value in arguments)
    if arguments:
        inner = ", ".join("..." if part is ... else _format_type(part) for part in arguments)
        return f"{getattr(origin, '__name__', origin)}[{inner}]"
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


@cache
def _import_modules(package: str) -> None:
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _find_place(cls: type[Any]) -> str:
    """Where a class is defined."""
    try:
        line = inspect.getsourcelines(cls)[1]
        return f"{cls.__qualname__} ({inspect.getsourcefile(cls)}:{line})"
    except (OSError, TypeError):  # defined at a prompt
        return f"{cls.__module__}.{cls.__qualname__}"
