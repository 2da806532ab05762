"""Uploading the files of a model to a repository of the Hugging Face hub, in one commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from segkit import __version__
from segkit.core.errors import SegkitError
from segkit.core.published import quiet_requests
from segkit.hub.placing import choose_files

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

LOG_IN = "Log in once with: hf auth login (a token with the role write), or set HF_TOKEN."


def open_repository(repo: str, private: bool, revision: str | None) -> ModelInfo:
    """Find a repository and a branch of it; make them if they do not exist.

    Raises:
        SegkitError: There is no token, it does not suffice, the repository is public although
            ``private``, or the hub cannot be reached.
    """
    from huggingface_hub import get_token

    # versions before 0.25 have them in this module only
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if get_token() is None:
        raise SegkitError(f"repo={repo}: uploading needs a token of the Hugging Face hub. {LOG_IN}")
    api = _make_api()
    with _explain_upload(repo):
        try:
            info = api.model_info(repo)
        except RepositoryNotFoundError:
            api.create_repo(repo, private=private)
            info = api.model_info(repo)
    if private and not info.private:
        raise SegkitError(
            f"repo={repo} is public: private=false uploads the model for everybody to see."
            " Or name another repository, which is made as a private one."
        )
    if revision is None:
        return info
    with _explain_upload(repo):
        try:
            return api.model_info(repo, revision=revision)
        except RevisionNotFoundError:
            api.create_branch(repo, branch=revision)
            return api.model_info(repo, revision=revision)


def upload(
    draft: Path, info: ModelInfo, message: str, revision: str | None, overwrite: bool
) -> tuple[str, list[str]]:
    """Upload the files of a folder in one commit, after what is there was looked at.

    Returns:
        The hash of the commit, and notes.

    Raises:
        SegkitError: Files of somebody else are in the way, the repository has changed since it was
            looked at, or the upload failed; then the repository is as it was.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api, repo = _make_api(), info.id
    with _explain_upload(repo):
        present = [file.rfilename for file in info.siblings or ()]
        read = _make_reader(api, repo, info.sha)
        names, gone, notes = choose_files(draft, f"repo={repo}", present, read, overwrite)
        added = [CommitOperationAdd(name, str(draft / name)) for name in names]
        dropped = [CommitOperationDelete(name) for name in gone]
        done = api.create_commit(
            repo,
            [*added, *dropped],
            commit_message=message,
            revision=revision,
            parent_commit=info.sha,  # what came meanwhile is not replaced
        )
    return str(done.oid), notes


def _make_api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="segkit", library_version=__version__)


def _make_reader(api: HfApi, repo: str, revision: str | None) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        return Path(api.hf_hub_download(repo, name, revision=revision)).read_bytes()

    return read


@contextmanager
def _explain_upload(repo: str) -> Iterator[None]:
    """Turn the errors of the hub into one message each."""
    try:
        with quiet_requests():
            yield
    except SegkitError:
        raise
    except Exception as error:  # of whichever library carries the requests
        status, root = _find_status(error), _find_root(error)
        said = str(getattr(root, "server_message", None) or root or type(root).__name__)
        remedies = {
            401: f"the token is not valid. {LOG_IN}",
            403: f"the token may not write there. Check the owner and: hf auth whoami. {LOG_IN}",
            404: "it is not there, or the token may not see it. Check the name.",
            409: "it was changed or made meanwhile. Run the command again.",
            412: "it was changed meanwhile. Run the command again.",
        }
        failed = f"{_describe_failure(error, status)}. No commit was made; run the command again."
        remedy = remedies.get(status or 0, failed)
        said = " ".join(said.split()).rstrip(".")
        raise SegkitError(f"repo={repo}: {remedy} It says: {said}.") from error


def _describe_failure(error: Exception, status: int | None) -> str:
    if status is not None or isinstance(error, ValueError):
        return "the hub refuses it"
    library = type(_find_root(error)).__module__.partition(".")[0]
    if isinstance(_find_root(error), OSError) or library.startswith(("http", "requests")):
        return "the hub cannot be reached"
    return "the upload failed"


def _find_status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, if there is one."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None


def _find_root(error: BaseException) -> BaseException:
    """What lies behind "Error while uploading"."""
    while type(error) is RuntimeError and error.__cause__ is not None:
        error = error.__cause__
    return error
