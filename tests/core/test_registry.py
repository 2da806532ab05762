"""Families of named classes: listing, building, checking, and what may not be defined."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from segkit.core.errors import SegkitError, all_at_once, did_you_mean
from segkit.core.registry import Registrable, check_options, signature


@pytest.fixture
def family():
    """A family of its own for each test."""

    class Shape(Registrable, family="shape"):
        pass

    return Shape


@pytest.fixture
def square(family):
    class Square(family, name="square"):
        def __init__(
            self,
            side: Annotated[int, Field(ge=1)],
            fill: Literal["red", "blue"] = "red",
            size: tuple[int, int] | None = None,
            path: Path | Literal["auto"] | bool = "auto",
            scale: float = 1.0,
        ) -> None:
            self.given = (side, fill, size, path, scale)

    return Square


def test_names_are_listed_in_natural_order_by_wildcard(family):
    for name in ("net50", "net101", "net18", "other"):
        type(name, (family,), {}, name=name)
    assert family.names() == ["net18", "net50", "net101", "other"]
    assert family.names("net1*") == ["net18", "net101"]
    assert family.names("net?8") == ["net18"]
    assert family.names("NET*") == []


def test_two_families_do_not_share_names(family):
    class Colour(Registrable, family="colour"):
        pass

    class Red(Colour, name="red"):
        pass

    assert Colour.names() == ["red"]
    assert family.names() == []
    assert Red.name == "red"
    assert (Red.family, family.family) == ("colour", "shape")


def test_a_member_is_built_with_converted_options(family, square):
    built = family.build("square", side="3", size=[1, 2], path="a/b", scale=2)
    assert type(built) is square
    assert built.given == (3, "red", (1, 2), Path("a/b"), 2.0)
    assert family.build("square", side=1, path=True).given[3] is True
    assert family.build("square", side=1, path="auto").given[3] == "auto"


def test_an_unknown_name_is_answered_with_the_nearest(family, square):
    with pytest.raises(SegkitError) as caught:
        family.build("sqare")
    assert str(caught.value) == (
        "shape 'sqare' is not known. Did you mean 'square'? List them with segkit.Shape.names();"
        " your own need plugins=[FILE.py]."
    )


def test_all_that_is_wrong_with_options_is_said_at_once(family, square):
    with pytest.raises(SegkitError) as caught:
        family.build("square", fil="red", size=[1, 2, 3], scale="big")
    text = str(caught.value)
    assert text.startswith("shape 'square' cannot be built with these options:\n")
    assert "option 'fil' is not known. Did you mean 'fill'? Known: side, fill, size," in text
    assert "option 'side' is missing" in text
    assert "option 'size' is [1, 2, 3]: " in text
    assert "option 'scale' is 'big': " in text
    assert text.endswith(
        "its signature is square(side: int, fill: 'red' | 'blue' = 'red',"
        " size: tuple[int, int] | None = None, path: Path | 'auto' | bool = 'auto',"
        " scale: float = 1.0)"
    )


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("side", True, "'side' is True: .*not a boolean"),
        ("scale", False, "'scale' is False: .*not a boolean"),
        ("side", 0, "'side' is 0: Input should be greater than or equal"),
        ("fill", "green", "'fill' is 'green': Input should be 'red' or 'blue'"),
    ],
)
def test_wrong_values_are_named(family, square, option, value, message):
    with pytest.raises(SegkitError, match=message):
        family.build("square", **{"side": 1, option: value})


def test_options_that_somebody_else_fills_in_are_not_missing(square):
    assert check_options(square, {}, given=["side"]) == ({}, [])


def test_a_class_without_named_parameters_takes_no_options(family):
    class Plain(family, name="plain"):
        pass

    class Variadic(family, name="variadic"):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            pass

    for member in (Plain, Variadic):
        assert isinstance(family.build(member.name), member)
        assert signature(member) == "()"
        with pytest.raises(SegkitError, match=r"option 'args' is not known\. Known: none"):
            family.build(member.name, args=1)


def test_types_that_only_a_type_checker_knows_are_not_checked(family):
    class Odd(family, name="odd"):
        def __init__(self, value: NotImportedHere = 1) -> None:  # noqa: F821 - for type checkers
            self.value = value

    assert family.build("odd", value="x").value == "x"
    with pytest.raises(SegkitError, match=r"its signature is odd\(value = 1\)"):
        family.build("odd", vallue=1)


def test_a_member_needs_a_name(family):
    with pytest.raises(SegkitError, match=r'needs a name .*class Nameless\(Shape, name="\.\.\."\)'):

        class Nameless(family):
            pass


def test_a_member_that_lacks_a_method_is_named():
    class Shape(Registrable, ABC, family="shape"):
        @abstractmethod
        def draw(self): ...

    class Empty(Shape, name="empty"):
        pass

    with pytest.raises(SegkitError, match=r"shape 'empty' \(.*Empty\) does not define draw: see"):
        Shape.build("empty")


def test_a_member_is_final(family, square):
    with pytest.raises(SegkitError, match="subclasses 'square', which is final: subclass Shape"):

        class Rounded(square, name="rounded"):
            pass

    assert family.names() == ["square"]


def test_two_classes_of_one_name_are_an_error_that_shows_both_places(family, square):
    with pytest.raises(SegkitError) as caught:

        class Other(family, name="square"):
            pass

    text = str(caught.value)
    assert "two classes are named shape 'square'" in text
    assert text.count(f"{Path(__file__).name}:") == 2
    assert "Other" in text
    assert family.build("square", side=1).given[0] == 1  # the first one is kept


def test_the_same_class_may_be_defined_again_as_in_a_notebook(family):
    def cell(value: int) -> type:
        class Mine(family, name="mine"):
            def __init__(self) -> None:
                self.value = value

        return Mine

    cell(1)
    cell(2)
    assert family.build("mine").value == 2


def test_classes_of_a_prompt_have_a_place_too(family):
    code = "class {}(family, name='mine'): pass"
    exec(code.format("One"), {"family": family, "__name__": "__main__"})
    with pytest.raises(SegkitError, match=r"__main__\.One and __main__\.Two"):
        exec(code.format("Two"), {"family": family, "__name__": "__main__"})


def test_options_of_a_whole_family(family):
    class Layer(Registrable, family="layer"):
        @classmethod
        def build(cls, name: str, /, *, frozen: bool = False, **options: Any) -> Any:
            return cls.bind(name, {**options, "frozen": frozen})[1]

    class Plain(Layer, name="plain"):
        pass

    assert Layer.build("plain", frozen="yes") == {"frozen": True}
    assert signature(Plain) == "(frozen: bool = False)"


def test_hints_and_lists_of_errors():
    assert did_you_mean("zebra", ["square"]) == ""
    assert did_you_mean("squar", ["square", "squares"]) == " Did you mean 'square' or 'squares'?"
    assert str(all_at_once("title:", ["a", "b"])) == "title:\n  - a\n  - b"
