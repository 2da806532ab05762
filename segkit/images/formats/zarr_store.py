"""Zarr: folders of compressed chunks. One array is an image or a stack of images.

Of a group whose metadata describe an OME-Zarr image (versions 0.1 to 0.5) the array of full size is
read; ``FOLDER::NAME`` is the array NAME of any group. Axes are named by OME's metadata, if these
list the array, else by the array's own dimension names (zarr 3, or xarray's in zarr 2) if two of
them are y and x, else see `segkit.images.arrays`.

A chunk that is not on the disk holds the array's fill value: writers leave empty chunks out.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.core.errors import SegkitError
from segkit.images.arrays import ArrayPages, read_packing
from segkit.images.formats.base import ImageFormat, Pages
from segkit.images.place import Place, measure_pixel

if TYPE_CHECKING:
    import zarr

_MARKS = ("zarr.json", ".zarray", ".zgroup")
_CHANNELS = {"channel": "c", "band": "c"}  # xarray's names


def is_zarr(path: str | Path) -> bool:
    """Whether this folder holds a zarr array or group; its name does not matter."""
    with suppress(PermissionError):  # it may not be opened
        return Path(path).is_dir() and any(Path(path, mark).is_file() for mark in _MARKS)
    return False


class Zarr(ImageFormat, name="zarr"):
    """Zarr 2 and 3, OME-Zarr among them."""

    title = "zarr"
    suffixes = (".zarr",)
    has_arrays = True

    @classmethod
    def owns(cls, path: Path, start: bytes) -> bool:
        """No single file is a zarr."""
        return False

    @classmethod
    def owns_folder(cls, path: Path) -> bool:
        """By the files that hold its metadata."""
        return is_zarr(path)

    @classmethod
    def open(cls, file: Path | bytes, array: str | None = None) -> Pages:
        """Open the array that is the image.

        Raises:
            SegkitError: It is a group that does not say which array is the image.
            ValueError: The array is not an image, or its metadata are wrong.
        """
        assert isinstance(file, Path)
        found, names, place = _open(file, array)
        return ArrayPages(found, names, found.chunks, place, read_packing(found.attrs))


def _open(path: Path, name: str | None) -> tuple[zarr.Array[Any], list[str] | None, Place | None]:
    """The array that is the image; names of its axes and its place if they are known."""
    import zarr  # takes most of a second

    node: Any = zarr.open(path, mode="r")
    if name is not None:
        try:
            node = node[name]
        except (KeyError, IndexError, TypeError):
            raise SegkitError(f"this zarr has no array '{name}'.") from None
        path = path / name
    if isinstance(node, zarr.Array):
        described = _find_description(path)
        return (node, *described) if described else (node, _dimension_names(node), None)
    multiscales = _read_multiscales(node)
    if not multiscales:
        inside = sorted(child for child in path.iterdir() if is_zarr(child))
        hint = " or ".join(f"'{child}'" for child in inside[:3])
        raise SegkitError(
            "this zarr group is not an OME-Zarr image: it has no multiscales. "
            + (f"Give the path of what is inside, such as {hint}." if inside else "It is empty.")
        )
    inner = multiscales[0]["datasets"][0]["path"]
    try:
        array = node[inner]
    except KeyError:
        array = None
    if not isinstance(array, zarr.Array):
        raise ValueError(f"its metadata name an array '{inner}' that does not exist")
    return (array, *_describe(multiscales[0], 0))


def _read_multiscales(group: Any) -> list[Any]:
    """OME's descriptions of images in a group."""
    attributes: dict[str, Any] = dict(group.attrs)
    found: list[Any] = attributes.get("ome", attributes).get("multiscales") or []
    return found


def _find_description(path: Path) -> tuple[list[str], Place | None] | None:
    """What the metadata of the groups around an array say about it; None if they do not name it."""
    import zarr

    for above in path.absolute().parents:
        if not is_zarr(above):
            return None
        inner = path.absolute().relative_to(above).as_posix()
        for image in _read_multiscales(zarr.open(above, mode="r")):
            for level, each in enumerate(image.get("datasets", ())):
                if each.get("path") == inner:
                    return _describe(image, level)
    return None


def _describe(image: dict[str, Any], level: int) -> tuple[list[str], Place | None]:
    """The names of the axes and the place of an array of one of OME's images."""
    axes = image.get("axes", "tczyx")  # version 0.3 has names only, older ones none
    names = [axis["name"] if isinstance(axis, dict) else axis for axis in axes]
    place = None
    with suppress(TypeError, ValueError, AttributeError):  # pixels without a size are pixels too
        place = _read_place(image, level, axes)
    return names, place


def _read_place(image: dict[str, Any], level: int, axes: Any) -> Place | None:
    """The size of a pixel of an array, by the scales and units of OME's metadata."""
    scale, units = {"y": 1.0, "x": 1.0}, {"y": "", "x": ""}
    # those of the array, and those of all levels
    for where in (image["datasets"][level], image):
        for change in where.get("coordinateTransformations", ()):
            factors = change.get("scale", ()) if change.get("type") == "scale" else ()
            for axis, factor in zip(axes, factors, strict=False):
                if isinstance(axis, dict) and axis["name"] in scale:
                    scale[axis["name"]] *= float(factor)
                    units[axis["name"]] = str(axis.get("unit", ""))
    return measure_pixel((scale["y"], scale["x"]), (units["y"], units["x"]))


def _dimension_names(array: zarr.Array[Any]) -> list[str] | None:
    given: Any = getattr(array.metadata, "dimension_names", None)
    given = given or array.attrs.get("_ARRAY_DIMENSIONS") or []
    names = [_CHANNELS.get(str(name).lower(), str(name).lower()) for name in given]
    return names if "y" in names and "x" in names else None
