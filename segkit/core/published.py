"""Published models: two files in a folder, or in a repository of the Hugging Face hub.

``hf://owner/name`` stands for such a repository, ``hf://owner/name@revision`` for a branch, a tag
or a commit of it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from segkit.core.errors import SegkitError

WEIGHTS = "model.safetensors"
"""The file of the weights."""
CARD = "config.json"
"""The file of the model card beside it."""
KEY = "segkit"
"""The entry of that file which holds the card."""
HASHES = "sha256"
"""The entry with the SHA-256 of the other files, by their names."""
LARGEST_CARD = 2**24
"""Largest size of a card, in bytes: a thousand classes need a tenth of a million."""

HUB_ANSWER_SECONDS = 10.0
"""How long the hub may take to answer."""

_REFERENCE = r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?/?"  # a Path holds one slash for two
_IN_CACHE = re.compile(r"models--([^/]+?)--([^/]+)")


def is_on_hub(path: Path | str) -> bool:
    """Whether a path names a model of the hub, not a file."""
    return PurePath(path).as_posix().startswith("hf:")


def spell_path(path: Path | str) -> str:
    """A path as it is typed: ``Path("hf://a/b")`` has lost a slash."""
    text = PurePath(path).as_posix() if is_on_hub(path) else str(path)
    return re.sub(r"^hf:/*", "hf://", text)


def fetch(path: Path | str) -> Path:
    """The file of the weights of a model on the hub, from the cache if it is there; other paths.

    Only the two files of a model are downloaded, and both are of one commit.

    Raises:
        SegkitError: There is no such model, it is not segkit's, or the hub cannot be reached.
    """
    if not is_on_hub(path):
        return Path(path)
    name = spell_path(path)
    found = re.fullmatch(_REFERENCE, name)
    if found is None:
        raise SegkitError(
            f"{name} names no model of the Hugging Face hub: write hf://OWNER/NAME, or"
            " hf://OWNER/NAME@REVISION for a branch, a tag or a commit."
        )
    from huggingface_hub import hf_hub_download

    repository, revision = found.groups()
    with _explain_download(name, repository):
        away = _find_distance(repository, revision)
    download = partial(hf_hub_download, repository, local_files_only=bool(away))
    with _explain_download(name, repository, away):
        card = Path(download(CARD, revision=revision))
    read_card(card, name)  # before gigabytes of another library's weights come
    with _explain_download(name, repository, away):
        return Path(download(WEIGHTS, revision=card.parent.name))


def _find_distance(repository: str, revision: str | None) -> str:
    """Why the hub cannot be asked; empty if it can. Its library alone would try for minutes.

    Raises:
        Exception: The hub's answer is an error.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    # versions before 0.25 have them in this module only
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        EntryNotFoundError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if constants.HF_HUB_OFFLINE:
        return "may not be asked (HF_HUB_OFFLINE is set)"
    try:
        get_hf_file_metadata(
            hf_hub_url(repository, CARD, revision=revision), timeout=HUB_ANSWER_SECONDS
        )
    except (
        EntryNotFoundError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    ):
        raise
    except Exception as error:  # of whichever library carries the requests, or of a proxy
        return f"cannot be reached ({shorten(error)})"
    return ""


def list_model_files(path: Path) -> list[Path]:
    """The files of a trained network: the given one, and what belongs beside it."""
    beside = {".safetensors": path.with_name(CARD), ".xml": path.with_suffix(".bin")}
    second = beside.get(path.suffix.lower())
    return [path] if second is None else [path, second]


def find_name(path: Path) -> str:
    """The name (owner/name) of the repository that a file in the hub's cache is of, or nothing."""
    found = next(filter(None, map(_IN_CACHE.fullmatch, path.parts)), None)
    is_one = found is not None and path.name == WEIGHTS and path.parent.parent.name == "snapshots"
    return "/".join(found.groups()) if found and is_one else ""


def read_card(path: Path, name: str = "") -> dict[str, Any]:
    """Read the file of a model card: the entries ``segkit`` and ``sha256``.

    Args:
        path: The file.
        name: What messages call it; its path if nothing is given.

    Raises:
        SegkitError: It cannot be read, or segkit did not write it.
    """
    name = name or str(path)
    try:
        if path.stat().st_size > LARGEST_CARD:
            raise SegkitError(f"{name}: {CARD} is too large for a card of segkit.")
        stored = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SegkitError(
            f"{name}: {CARD} cannot be read: {error.strerror or error}. It belongs beside"
            f" {WEIGHTS}, as python -m segkit.hub writes both."
        ) from error
    except (ValueError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise SegkitError(
            f"{name}: {CARD} is no JSON ({said}). Take it from its origin."
        ) from error
    if not is_card(stored):
        raise SegkitError(
            f"{name} is no model of segkit: its {CARD} has no card under '{KEY}', as python -m"
            " segkit.hub push=CKPT writes it."
        )
    return stored


def is_card(stored: object) -> bool:
    """Whether the content of a ``config.json`` is one of segkit."""
    return (
        isinstance(stored, dict)
        and isinstance(stored.get(KEY), dict)
        and isinstance(stored.get(HASHES), dict)
    )


@contextmanager
def quiet_requests() -> Iterator[None]:
    """Keep the lines of each request out of the output of a command."""
    loggers = [logging.getLogger(name) for name in ("httpx", "httpx2")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def _explain_download(name: str, repository: str, distance: str = "") -> Iterator[None]:
    """Turn the errors of a download into one message each."""
    # as above
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        with quiet_requests():
            yield
    except LocalEntryNotFoundError as error:
        raise SegkitError(
            f"{name} is not in the cache of this machine, and the Hugging Face hub"
            f" {distance or 'has no more of it'}. Load it once with a network; afterwards the cache"
            " is enough."
        ) from error
    except GatedRepoError as error:
        raise SegkitError(
            f"{name}: its owner decides who may read it. Ask for access on the page of {repository}"
            " and log in with: hf auth login (or set HF_TOKEN)."
        ) from error
    except RepositoryNotFoundError as error:
        raise SegkitError(
            f"{name}: there is no such repository of models on the hub, or you may not read it."
            " Check the name; for a private one log in with: hf auth login (or set HF_TOKEN)."
        ) from error
    except RevisionNotFoundError as error:
        raise SegkitError(
            f"{name}: {repository} has no such branch, tag or commit. Leave out what follows the @"
            " for the newest one."
        ) from error
    except EntryNotFoundError as error:
        raise SegkitError(
            f"{name} is no model of segkit: it lacks {CARD} or {WEIGHTS}, as python -m segkit.hub"
            " push=CKPT writes them."
        ) from error
    except HFValidationError as error:
        raise SegkitError(f"{name}: {shorten(error)}.") from error
    except Exception as error:  # of whichever library carries the requests
        raise SegkitError(f"{name} cannot be downloaded: {shorten(error)}. Try again.") from error


def shorten(error: BaseException) -> str:
    """The first line of what a library says, without the full stop."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
