"""The hub command: a trained model to a repository of the Hugging Face hub, from top to bottom."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from segkit.checkpoint.reading import read_weights
from segkit.config.settings import HubSettings, parse_settings
from segkit.core.ensembles import is_ensemble, read_ensemble
from segkit.core.errors import SegkitError
from segkit.core.files import make_folder, name_temporary, remove_tree, wrap_write_errors
from segkit.core.published import WEIGHTS
from segkit.hub.model import find_scored_run, leave_out_names, read_scores, write_model
from segkit.hub.page import Page
from segkit.hub.placing import place_files
from segkit.hub.upload import open_repository, upload

EXPORTED = (".onnx", ".xml", ".pt2")
PLACEHOLDER = "OWNER/NAME"


def push(config: DictConfig) -> str:
    """Upload a checkpoint as a model of the hub, or write its files into a folder.

    Returns:
        The name that stands for it: ``hf://owner/name``, or the file of the weights.

    Raises:
        SegkitError: The config or the checkpoint cannot be used, or the files cannot be uploaded;
            then nothing has changed.
    """
    settings = parse_settings(HubSettings, config)
    _require_sense(settings)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    card, weights = read_weights(settings.push)
    card = leave_out_names(card)
    run = find_scored_run(settings.push)
    repo = settings.repo or PLACEHOLDER
    scores = read_scores(run) if run is not None else {}
    page = Page(repo, settings.revision, settings.license, scores)
    pictured = run if settings.pictures else None
    if settings.license is None:
        console.print("note: README.md says license: unknown, as none is given (license=mit)")
    if run is None:
        console.print("note: README.md has no scores, as this is no best.ckpt in a run folder")
    if settings.folder is not None:
        make_folder(settings.folder)
        with _make_draft(settings.folder / WEIGHTS) as draft:
            write_model(draft, card, weights, page, pictured)
            notes = place_files(draft, settings.folder, settings.overwrite)
        for note in notes:
            console.print(f"note: {note}")
        console.print(f"{settings.folder} holds the files; nothing was uploaded")
        return str(settings.folder / WEIGHTS)
    info = open_repository(repo, settings.private, settings.revision)
    with _make_draft(Path(tempfile.gettempdir()) / WEIGHTS) as draft:
        write_model(draft, card, weights, page, pictured)
        parts = " + ".join(part["name"] for part in (card.encoder, card.neck, card.head))
        message = (
            settings.message or f"{parts}, by segkit {card.versions.get('segkit', '')}".strip()
        )
        commit, notes = upload(draft, info, message, settings.revision, settings.overwrite)
    name = f"hf://{repo}" + (f"@{settings.revision}" if settings.revision else "")
    for note in notes:
        console.print(f"note: {note}")
    seen = "private" if info.private else "public: everybody can load it"
    console.print(f"{name} is commit {commit[:12]}; the repository is {seen}")
    console.print(f"to use it: python -m segkit.predict checkpoint={name} input=DIR")
    return name


def _require_sense(settings: HubSettings) -> None:
    """Raise a SegkitError if the settings contradict each other, or the file is none to push."""
    path = settings.push
    if settings.repo is None and settings.folder is None:
        raise SegkitError(
            "repo is missing: give repo=OWNER/NAME, or folder=DIR to write the files and upload"
            " nothing."
        )
    if settings.folder is None and not settings.private and settings.license is None:
        raise SegkitError(
            "private=false lets everybody load the model, so say what they may do with it:"
            " license=apache-2.0, mit, cc-by-nc-4.0 ... or license=unknown."
        )
    if is_ensemble(path):
        first = read_ensemble(path)[0]
        raise SegkitError(
            f"push={path} is an ensemble, and a repository holds one network: push each of its"
            f" checkpoints, {first} for instance; an ensemble.yaml may name them as hf://OWNER/NAME."
        )
    if path.suffix.lower() in EXPORTED:
        raise SegkitError(
            f"push={path} is an exported file: push the checkpoint that it was made of. Others"
            " export it with: python -m segkit.export checkpoint=hf://OWNER/NAME."
        )


@contextmanager
def _make_draft(path: Path) -> Iterator[Path]:
    """A temporary folder beside a file; the next command removes it if this one is killed."""
    folder = name_temporary(path)
    with wrap_write_errors(path.parent):
        folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        remove_tree(folder)
