"""Reading YAML files that others wrote, in bounded time and memory."""

from __future__ import annotations

from pathlib import Path

from segkit.core.errors import SegkitError

DEPTH = 50
"""Levels of nested lists and mappings that a file may have."""
NODES = 1_000_000
"""Values that a file may have, those of its aliases counted wherever they are repeated."""


def read_yaml_text(path: Path) -> str:
    """The text of a YAML file, to be parsed by the caller, who needs fear neither time nor memory.

    Raises:
        SegkitError: It cannot be read, is no text or no YAML, or would unfold to too much.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8-sig")
        _require_small(text)
    except OSError as error:
        raise SegkitError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise SegkitError(f"{path} is no YAML: it is not text in UTF-8 ({error}).") from error
    except yaml.YAMLError as error:
        raise SegkitError(f"{path} is no YAML: {' '.join(str(error).split())}.") from error
    except ValueError as error:
        raise SegkitError(f"{path} {error}.") from error
    return text


def _require_small(text: str) -> None:
    """Count what a text unfolds to, without building it."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    sizes: dict[str, int] = {}  # of the finished nodes with an anchor
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, loader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1))
            if len(open_nodes) > DEPTH:
                raise ValueError(f"is nested more than {DEPTH} levels deep")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"has an alias '*{event.anchor}' for nothing, or within itself")
            anchor, size = None, sizes[event.anchor]
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        outer, total = open_nodes[-1]
        open_nodes[-1] = outer, total + size
        if total + size > NODES:
            raise ValueError(f"holds more than {NODES:,} values")
