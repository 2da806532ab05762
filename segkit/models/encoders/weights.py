"""Where pretrained weights come from: a local file, the cache or the hub, or nowhere."""

from __future__ import annotations

import pickle
import threading
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segkit.core.errors import SegkitError
from segkit.core.torch_files import fault

HUB_ANSWER_SECONDS = 4.0


class PretrainedWarning(UserWarning):
    """Pretrained weights were wanted if they can be had, and cannot be had."""


def read_file(path: Path) -> Any:
    """What a ``.safetensors`` or PyTorch file holds; only data is read, no code is run.

    Raises:
        SegkitError: There is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise SegkitError(f"encoder.pretrained: there is no file {path}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # its message advises to run the file's code
        reason = fault(path) or "its pickle is damaged"
    except Exception as error:
        reason = str(error)
    raise SegkitError(
        f"encoder.pretrained: {path} cannot be read as a .safetensors or PyTorch file of weights:"
        f" {reason}. If it was downloaded, delete it and try again."
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or PyTorch file by their names.

    Raises:
        SegkitError: There is no such file, or it holds no tensors by name.
    """
    state = read_file(path)
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise SegkitError(f"encoder.pretrained: {path} holds no dictionary of tensors.")
    return state


def load_state(module: nn.Module, path: Path) -> None:
    """Load a file into a module whose parameters have the very names of the file."""
    try:
        module.load_state_dict(read_state(path))
    except RuntimeError as error:
        raise SegkitError(
            f"encoder.pretrained: {path} does not fit the encoder. {error}"
        ) from error


def check_fit(module: nn.Module, path: Path, what: str) -> None:
    """Refuse a file that most of the module's weights did not come from (weights of another model).

    timm drops what it does not know, so that the weights of another model would load as nothing.
    Vectors do not count: fresh biases and normalisations are zeros and ones, as in many a file.
    """
    weights = [p for p in module.parameters() if p.ndim > 1]
    held = {(tuple(t.shape), t.double().sum().item()) for t in read_state(path).values()}
    loaded = [(tuple(p.shape), p.double().sum().item()) in held for p in weights]
    if sum(loaded) < len(loaded) / 2:
        raise SegkitError(
            f"encoder.pretrained: only {sum(loaded)} of the {len(loaded)} weight tensors of {what}"
            f" are in {path}. It seems to be the file of another model."
        )


def find_weights(config: dict[str, Any], what: str, required: bool) -> Path | None:
    """The file of a timm model's pretrained weights: from the cache, else from the hub.

    Args:
        config: timm's pretrained configuration of the model.
        what: The model's name, for messages.
        required: Whether it is an error that they cannot be had; otherwise it is a warning.

    Returns:
        The path of a local file, or None where the weights cannot be had.
    """
    repository, url = config.get("hf_hub_id"), config.get("url")
    try:
        if repository:
            return _from_hub(repository, config.get("hf_hub_filename"))
        if url:
            return _from_url(str(url), config.get("file_name"))
        reason = "timm has none"
    except Exception as error:  # every library on the way has its own
        why = str(error).strip().partition("\n")[0] or repr(error)
        reason = f"{repository or url} is neither in the cache nor to be had ({why})"
    _report_missing(what, reason, required)
    return None


def _report_missing(what: str, reason: str, required: bool) -> None:
    if required:
        raise SegkitError(
            f"encoder.pretrained=true, but there are no pretrained weights for '{what}': {reason}."
            " Connect to the network, give encoder.pretrained=PATH of a local file, or train from"
            " scratch with encoder.pretrained=false."
        )
    warnings.warn(
        f"no pretrained weights for the encoder '{what}': {reason}. It is trained FROM SCRATCH."
        " Give encoder.pretrained=PATH of a local file, or silence this with"
        " encoder.pretrained=false.",
        PretrainedWarning,
        stacklevel=2,
    )


def _from_hub(repository: str, filename: str | None) -> Path:
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    # where versions before 0.25 have it too
    from huggingface_hub.utils import EntryNotFoundError  # type: ignore[attr-defined]

    names = [filename] if filename else ["model.safetensors", "pytorch_model.bin"]
    for name in names:
        cached = try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    _require_answer(constants.ENDPOINT)
    for name in names[:-1]:
        try:
            return Path(hf_hub_download(repository, name))
        except EntryNotFoundError:
            continue
    return Path(hf_hub_download(repository, names[-1]))


def _from_url(url: str, file_name: str | None) -> Path:
    from huggingface_hub import constants
    from torch.hub import download_url_to_file, get_dir

    path = Path(get_dir()) / "checkpoints" / (file_name or url.rpartition("/")[2])
    if not path.is_file():
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("HF_HUB_OFFLINE is set")
        _require_answer(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(url, str(path), progress=False)
    return path


def _require_answer(url: str) -> None:
    """Fail within seconds where nobody answers; the libraries would try for minutes."""
    failure: list[str] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=HUB_ANSWER_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # an answer, whatever it says
        except Exception as error:  # of the network, of a proxy, of a URL that is none
            failure.append(str(error) or repr(error))

    # in a thread, as looking up a host's name has no timeout of its own
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_ANSWER_SECONDS)
    if thread.is_alive() or failure:
        raise ConnectionError(
            failure[0] if failure else f"no answer within {HUB_ANSWER_SECONDS:g} s"
        )
