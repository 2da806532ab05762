"""Where pretrained weights come from: a local file, the cache or the hub, or nowhere."""

from __future__ import annotations

import re
import urllib.request
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from segkit.core.errors import SegkitError
from segkit.core.torch_files import load_data

HUB_ANSWER_SECONDS = 4.0
AVERAGED = ("ema", "teacher")
"""What parts of a file are called that hold weights which are averages."""
DEEPEST = 4
"""How deep the dictionary of tensors may lie in a file."""
WRAPPER = "model."
"""What the names of weights begin with in backbones that timm takes maps from by hooks."""
FLAT = r"^([a-z]+)_(\d+)\."
"""What timm makes of ``stages.0.`` and the like in backbones that give several maps."""


class PretrainedWarning(UserWarning):
    """Pretrained weights were wanted if available, and are not available."""


def read_file(path: Path) -> Any:
    """Read a ``.safetensors`` or PyTorch file; only data is read, no code is run."""
    if not path.is_file():
        raise SegkitError(f"encoder.pretrained: there is no file {path}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return load_data(path)
    except Exception as error:  # safetensors has its own
        raise SegkitError(
            f"encoder.pretrained: {path} cannot be read as a .safetensors or PyTorch file of"
            f" weights: {error}. If it was downloaded, delete it and try again."
        ) from error


def read_state(path: Path, wanted: Collection[str] = ()) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors`` or PyTorch file by name.

    Training programs keep networks as a part of what they store, and encoders as a part of
    networks: of all dictionaries in the file, the one with most of the ``wanted`` names is taken,
    behind whichever prefix they have there; of equal ones that of a teacher or of averaged weights.
    """
    states = list(_list_states(read_file(path)))
    if not states:
        raise SegkitError(f"encoder.pretrained: {path} holds no dictionary of tensors.")
    plain = {_simplify(name) for name in wanted}
    found: list[tuple[int, bool, str, dict[str, Tensor]]] = []
    for place, state in states:
        prefix, count = _find_prefix(state, plain)
        found.append((count, any(word in place for word in AVERAGED), prefix, state))
    _, _, prefix, state = max(found, key=lambda each: each[:2])
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _list_states(stored: Any, place: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The dictionaries of tensors inside what was read, outer ones first, and where they lie."""
    if not isinstance(stored, dict):
        return
    texts = {key: value for key, value in stored.items() if isinstance(key, str)}
    tensors = {key: value for key, value in texts.items() if isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for key, value in texts.items():
        if place.count("/") < DEEPEST:
            yield from _list_states(value, f"{place}/{key}")


def _find_prefix(state: Iterable[str], wanted: Collection[str]) -> tuple[str, int]:
    """The prefix behind which most names are wanted, the shortest of equal ones; how many are."""
    counts: Counter[str] = Counter({"": 0})
    for name in state:
        for at in (0, *(match.end() for match in re.finditer(r"\.", name))):
            counts[name[:at]] += _simplify(name[at:]) in wanted
    return max(counts.items(), key=lambda each: (each[1], -len(each[0])))


def _simplify(name: str) -> str:
    """Networks that give features have "_" where the whole ones have "."."""
    return name.replace("_", ".")


def load_state(module: nn.Module, path: Path) -> None:
    """Load a file into a module whose parameters have exactly the names in the file."""
    try:
        module.load_state_dict(read_state(path, module.state_dict()))
    except RuntimeError as error:
        raise SegkitError(
            f"encoder.pretrained: {path} does not fit the encoder. {error}"
        ) from error


def load_backbone(
    model: str, weights: Path, names: Collection[str], arguments: dict[str, Any]
) -> tuple[nn.Module, dict[str, Tensor]]:
    """The backbone with the weights of a file, whose first convolution timm adapts, and these.

    ``names`` are those of the backbone's tensors. Of numpy arrays only timm sees the weights.
    """
    state: dict[str, Tensor] = {}
    overlay: dict[str, Any] = {"file": str(weights), "custom_load": True}
    if weights.suffix != ".npz":  # numpy arrays of the original authors, which timm translates
        state = read_state(weights, {name.removeprefix(WRAPPER) for name in names})
        flat = {name for name in state if name in names}  # of another encoder like this one
        state = {re.sub(FLAT, r"\1.\2.", k) if k in flat else k: v for k, v in state.items()}
        overlay = {"state_dict": state, "custom_load": False}
    try:
        backbone = timm.create_model(
            model, pretrained=True, pretrained_cfg_overlay=overlay, **arguments
        )
    except Exception as error:  # each filter of timm has its own
        raise SegkitError(
            f"encoder.pretrained: {weights} does not fit the timm model '{model}'"
            f" ({str(error).partition(chr(10))[0].rstrip(':. ')}). Its tensors are called"
            f" {', '.join(list(state)[:2])} ..., those of the model {', '.join(list(names)[:2])}"
            " ..."
        ) from error
    for module in backbone.modules():
        for config in (getattr(module, key, None) for key in ("pretrained_cfg", "default_cfg")):
            if isinstance(config, dict):
                config.pop("state_dict", None)  # else it would be held and copied for ever
    return backbone, state


def check_fit(module: nn.Module, state: dict[str, Tensor], path: Path, model: str) -> None:
    """Refuse a file that most of the module's weights did not come from.

    timm drops what it does not know, so that the weights of another model would load as nothing.
    Vectors do not count: fresh biases and normalisations are zeros and ones, as in many a file.
    """
    weights = [p for p in module.parameters() if p.ndim > 1]
    held = {(tuple(t.shape), t.double().sum().item()) for t in state.values()}
    loaded = [(tuple(p.shape), p.double().sum().item()) in held for p in weights]
    if sum(loaded) < len(loaded) / 2:
        raise SegkitError(
            f"encoder.pretrained: only {sum(loaded)} of the {len(loaded)} weight tensors of {model}"
            f" are in {path}. It seems to be the file of another model."
        )


def find_weights(config: dict[str, Any], model: str, required: bool) -> Path | None:
    """Find the file of a timm model's pretrained weights: in the cache, else on the hub.

    Without weights the result is None with a warning, or an error if they are required. ``config``
    is timm's pretrained configuration of the model.
    """
    repository, url = config.get("hf_hub_id"), config.get("url")
    try:
        cached = find_cached(config)
        if cached is not None:
            return cached
        if repository:
            return _fetch_from_hub(repository, _list_names(config))
        if url:
            return _fetch_from_url(str(url), _place_in_cache(config))
        reason = "timm has none"
    except Exception as error:  # every library on the way has its own
        said = str(error).strip().partition("\n")[0] or repr(error)
        reason = f"{repository or url} is not in the cache and cannot be downloaded ({said})"
    if required:
        raise SegkitError(
            f"encoder.pretrained=true, but there are no pretrained weights for '{model}': {reason}."
            " Connect to the network, give encoder.pretrained=PATH of a local file, or train from"
            " scratch with encoder.pretrained=false."
        )
    warnings.warn(
        f"no pretrained weights for the encoder '{model}': {reason}. It is trained FROM SCRATCH."
        " Give encoder.pretrained=PATH of a local file, or silence this with"
        " encoder.pretrained=false.",
        PretrainedWarning,
        stacklevel=2,
    )
    return None


def find_cached(config: dict[str, Any]) -> Path | None:
    """Find the file of a timm model's pretrained weights on this machine; nothing is downloaded.

    ``config`` is timm's pretrained configuration of the model.
    """
    from huggingface_hub import hf_hub_download

    # versions before 0.25 have it in this module only
    from huggingface_hub.utils import LocalEntryNotFoundError  # type: ignore[attr-defined]

    if not config.get("hf_hub_id"):
        path = _place_in_cache(config)
        return path if config.get("url") and path.is_file() else None
    for name in _list_names(config):
        try:
            return Path(hf_hub_download(config["hf_hub_id"], name, local_files_only=True))
        except LocalEntryNotFoundError:
            continue
    return None


def _list_names(config: dict[str, Any]) -> list[str]:
    """The names that the file may have on the hub."""
    name = config.get("hf_hub_filename")
    return [name] if name else ["model.safetensors", "pytorch_model.bin"]


def _place_in_cache(config: dict[str, Any]) -> Path:
    """Where torch keeps a file that has an address."""
    name = config.get("file_name") or str(config.get("url")).rpartition("/")[2]
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def _fetch_from_hub(repository: str, names: list[str]) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    # as above
    from huggingface_hub.utils import EntryNotFoundError  # type: ignore[attr-defined]

    # hf_hub_download alone would retry for minutes without an answer
    for name in names:
        try:
            get_hf_file_metadata(hf_hub_url(repository, name), timeout=HUB_ANSWER_SECONDS)
            return Path(hf_hub_download(repository, name))
        except EntryNotFoundError:
            if name == names[-1]:
                raise
    raise AssertionError("there is at least one name")


def _fetch_from_url(url: str, path: Path) -> Path:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    urllib.request.urlopen(url, timeout=HUB_ANSWER_SECONDS).close()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(url, str(path), progress=False)
    return path
