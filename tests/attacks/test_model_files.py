"""Model files by hostile or broken hands: none of their code is run, and damage is noticed."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import io
import json
import math
import os
import pickle
import random
import re
import resource
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import segkit
from segkit.core.errors import SegkitError
from segkit.inference.runtimes import torch_export_file
from segkit.inference.runtimes.digest import UNSET, write_digest
from segkit.inference.runtimes.torch_export_file import UnknownContentError, copy_program

MADE = Path(__file__).parents[1] / "compatibility/made_by_0.1.0"
IMAGE = np.random.default_rng(0).integers(0, 255, (64, 64, 1), np.uint8)
MODEL, WEIGHTS = "archive/models/model.json", "archive/data/weights/model_weights_config.json"
CONSTANTS = "archive/data/constants/model_constants_config.json"
FIRST = "archive/data/weights/weight_0"
INPUTS = "archive/data/sample_inputs/model.pt"
IMPORTED = "imported_by_a_file"


def predict(path: Path):
    return segkit.load(path, device="cpu")(IMAGE, probabilities=True).probabilities


@functools.cache
def expected(name: str):
    return predict(MADE / name)


def outcome(path: Path, original: str) -> str:
    """What became of a changed file: "refused", or "the same numbers"; all else is a fault."""
    try:
        same = np.array_equal(predict(path), expected(original))
    except SegkitError as error:
        return "refused" if str(path) in str(error) else str(error)
    return "the same numbers" if same else "other numbers"


class Harmful:
    """Unpickling one makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def read_parts(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_parts(path: Path, *parts: tuple[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that occur twice
        for name, content in parts:
            archive.writestr(zipfile.ZipInfo(name), content)


# Each attack changes the parts of a .pt2 file; the code that it plants makes the folder ``mark``.


def in_a_formula(parts, mark):
    code = json.dumps(f"__import__('os').mkdir('{mark}')").encode()
    parts[MODEL] = re.sub(rb'("expr_str": )"[^"]*"', lambda f: f[1] + code, parts[MODEL], count=1)


def in_a_formula_without_names(parts, mark):
    path = "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close'][0]"
    code = json.dumps(f"{path}.__init__.__globals__['mkdir']('{mark}')").encode()
    parts[MODEL] = re.sub(rb'("expr_str": )"[^"]*"', lambda f: f[1] + code, parts[MODEL], count=1)


def in_a_guard(parts, mark):
    program = json.loads(parts[MODEL])
    program["guards_code"].append(f"__import__('os').mkdir('{mark}') is None")
    parts[MODEL] = json.dumps(program).encode()


def in_the_name_of_an_argument(parts, mark):
    program = json.loads(parts[MODEL])
    call = program["graph_module"]["module_call_graph"][0]["signature"]
    call["forward_arg_names"] = [f"image=__import__('os').mkdir('{mark}')"]
    parts[MODEL] = json.dumps(program).encode()


def in_the_name_of_a_node(parts, mark):
    code = json.dumps(f"image=__import__('os').mkdir('{mark}')").encode()
    parts[MODEL] = parts[MODEL].replace(b'"image"', code)


def in_the_name_of_a_weight(parts, mark):
    name = "model.encoder.levels.0.0.0.weight"
    code = f"""model.a", __import__('os').mkdir('{mark}') or "b"""
    for part in (MODEL, WEIGHTS):
        content = parts[part].replace(json.dumps(name).encode(), json.dumps(code).encode())
        parts[part] = content


def as_an_import_in_the_description_of_the_input(parts, mark):
    (mark.parent / f"{IMPORTED}.py").write_text(f"import os; os.mkdir('{mark}')")
    program = json.loads(parts[MODEL])
    call = program["graph_module"]["module_call_graph"][0]["signature"]
    enum = {"__enum__": True, "fqn": f"{IMPORTED}:A", "name": "a"}
    tree = json.loads(call["in_spec"])
    tree[1]["children_spec"][1]["context"] = json.dumps([enum])
    call["in_spec"] = json.dumps(tree)
    parts[MODEL] = json.dumps(program).encode()


def pickled(mark: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(Harmful(mark), buffer)
    return buffer.getvalue()


def as_a_pickled_example(parts, mark):
    parts[INPUTS] = pickled(mark)


def as_a_pickled_weight(parts, mark):
    listed = json.loads(parts[WEIGHTS])
    next(iter(listed["config"].values()))["use_pickle"] = True
    parts[WEIGHTS], parts[FIRST] = json.dumps(listed).encode(), pickled(mark)


def as_a_pickled_weight_by_a_key_that_occurs_twice(parts, mark):
    changed = parts[WEIGHTS].replace(b'"use_pickle"', b'"use_pickle": false, "use_pickle"', 1)
    parts[WEIGHTS], parts[FIRST] = changed, pickled(mark)


def as_a_pickled_constant(parts, mark):
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}
    parts[CONSTANTS] = json.dumps({"config": {"c": entry | {"tensor_meta": None}}}).encode()
    parts["archive/data/constants/opaque_obj_0"] = pickle.dumps(Harmful(mark))


def as_pickled_weights_of_torch_2_8(parts, mark):
    parts["archive/data/weights/model.pt"] = pickled(mark)


def as_a_part_in_capitals(parts, mark):
    good = parts.pop(WEIGHTS)
    parts[WEIGHTS.replace("model_weights", "MODEL_weights")] = good
    as_a_pickled_weight(parts | {WEIGHTS: good}, mark)
    listed = json.loads(good)
    next(iter(listed["config"].values()))["use_pickle"] = True
    capitals = {WEIGHTS.replace("model_weights", "MODEL_weights"): json.dumps(listed).encode()}
    rest = dict(parts)
    parts.clear()
    parts.update(capitals | rest | {WEIGHTS: good, FIRST: pickled(mark)})


def as_a_library(parts, mark):
    parts["archive/data/aotinductor/model/x.so"] = b"\x7fELF"


def as_an_assignment_in_the_name_of_a_node(parts, mark):
    parts[MODEL] = parts[MODEL].replace(b'"sub"', b'"torch.load"')


def as_an_operator(name: str):
    def attack(parts, mark):
        program = json.loads(parts[MODEL])
        program["graph_module"]["graph"]["nodes"][0]["target"] = name
        parts[MODEL] = json.dumps(program).encode()

    attack.__name__ = f"as_the_operator_{name}"
    return attack


ATTACKS = [
    in_a_formula,
    in_a_guard,
    in_the_name_of_a_node,
    as_an_import_in_the_description_of_the_input,
    as_a_pickled_example,
    as_a_pickled_weight,
    as_a_pickled_constant,
    as_pickled_weights_of_torch_2_8,
]
"""Those that torch runs."""
ATTEMPTS = [in_a_formula_without_names, in_the_name_of_an_argument, in_the_name_of_a_weight]
"""Code that torch evaluates or compiles, and fails on."""
OTHERS = [
    as_an_assignment_in_the_name_of_a_node,
    as_a_pickled_weight_by_a_key_that_occurs_twice,
    as_a_part_in_capitals,
    as_a_library,
    *map(
        as_an_operator,
        (
            *("torch.hub.load", "torch.load", "builtins.exec", "_operator.attrgetter", "math.os"),
            *("torch.ops.aten.from_file.default", "torch.ops.higher_order.cond"),
            *("torch.ops.aten.add.overloads", "torch.ops.aten.__class__.mro", "#extension:name"),
        ),
    ),
]


FINE = {"refused", "the same numbers"}


def name_of(attack) -> str:
    return attack.__name__


@pytest.fixture
def changed(tmp_path):
    """Applies an attack to the .pt2 file of segkit 0.1.0."""

    def change(attack) -> tuple[Path, Path]:
        parts, mark, path = (
            read_parts(MADE / "binary.pt2"),
            tmp_path / "mark_of_code",
            tmp_path / "x.pt2",
        )
        attack(parts, mark)
        write_parts(path, *parts.items())
        return path, mark

    return change


@pytest.mark.parametrize("attack", [*ATTACKS, *ATTEMPTS], ids=name_of)
def test_torch_does_not_see_code(attack, changed):
    path, mark = changed(attack)
    with contextlib.suppress(UnknownContentError):
        given = copy_program(path).getvalue()
        assert mark.name.encode() not in given
        assert IMPORTED.encode() not in given
    assert not mark.exists()


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")  # what torch says of such files
@pytest.mark.parametrize("attack", ATTACKS, ids=name_of)
def test_code_that_torch_runs_is_not_run(attack, changed, monkeypatch):
    path, mark = changed(attack)
    monkeypatch.syspath_prepend(mark.parent)
    assert outcome(path, "binary.pt2") in FINE
    assert not mark.exists()
    with contextlib.suppress(Exception):
        torch.export.load(path).module()(torch.zeros(2, 1, 64, 64))
    assert mark.exists()


@pytest.mark.parametrize("attack", OTHERS, ids=name_of)
def test_what_segkit_does_not_write_is_refused(attack, changed):
    path, _ = changed(attack)
    with pytest.raises(SegkitError, match=r"x\.pt2 holds .* nothing of it was run.*segkit\.export"):
        segkit.load(path, device="cpu")


@pytest.mark.slow
def test_parts_that_occur_twice_or_are_compressed(tmp_path):
    path, parts = tmp_path / "x.pt2", read_parts(MADE / "binary.pt2")
    write_parts(path, *parts.items(), (WEIGHTS, parts[WEIGHTS]))
    with pytest.raises(SegkitError, match="holds several parts of one name"):
        segkit.load(path, device="cpu")
    write_parts(path, *parts.items(), (f"other{WEIGHTS[7:]}", parts[WEIGHTS]))
    with pytest.raises(SegkitError, match="holds several parts of one name"):
        segkit.load(path, device="cpu")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, bytes(10**8) if name == FIRST else content)
    with pytest.raises(SegkitError, match="holds parts that are compressed or overlap"):
        segkit.load(path, device="cpu")


@pytest.mark.nightly
def test_the_parts_of_torch_2_8(tmp_path):
    """It wrote all weights as one pickle, from which tensors alone are read."""
    parts = read_parts(MADE / "binary.pt2")
    listed = json.loads(parts.pop(WEIGHTS))["config"]
    weights = {}
    for name, one in listed.items():
        data = bytearray(parts.pop(f"archive/data/weights/{one['path_name']}"))
        held = one["tensor_meta"]
        kind = torch.float32 if held["dtype"] == 7 else torch.int64
        sizes = [size["as_int"] for size in held["sizes"]]
        tensor = torch.frombuffer(data, dtype=kind).reshape(sizes)
        weights[name] = torch.nn.Parameter(tensor) if one["is_param"] else tensor
    del parts[CONSTANTS]
    for name, held in (("weights", weights), ("constants", {})):
        buffer = io.BytesIO()
        torch.save(held, buffer)
        parts[f"archive/data/{name}/model.pt"] = buffer.getvalue()
    write_parts(tmp_path / "x.pt2", *parts.items())
    assert outcome(tmp_path / "x.pt2", "binary.pt2") == "the same numbers"


def seal(name: str, folder: Path) -> Path:
    """A file of segkit 0.1.0, which had no digest, with one."""
    path = folder / name
    shutil.copy(MADE / name, path)
    if path.suffix == ".onnx":
        onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
        proto = onnx.load(path)
        entry = proto.metadata_props.add()
        entry.key, entry.value = "segkit_digest", UNSET
        onnx.save(proto, path)
        write_digest(path)
    elif path.suffix == ".xml":
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
        shutil.copy(MADE / "binary.bin", folder)
        text = path.read_text()
        path.write_text(text.replace("</rt_info>", f'<segkit_digest value="{UNSET}" /></rt_info>'))
        write_digest(path, path.with_suffix(".bin"))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("count", [8, pytest.param(40, marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    ("name", "damaged"),
    [
        ("binary.onnx", "binary.onnx"),
        ("binary.xml", "binary.xml"),
        ("binary.xml", "binary.bin"),
        pytest.param("binary.pt2", "binary.pt2", marks=pytest.mark.nightly),
    ],
)
def test_damaged_exported_files_are_refused_or_harmless(name, damaged, count, tmp_path):
    path, target = seal(name, tmp_path), tmp_path / damaged
    assert outcome(path, name) == "the same numbers"
    data, draw = target.read_bytes(), random.Random(count)
    outcomes = []
    for _ in range(count):
        changed = bytearray(data)
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        target.write_bytes(changed)
        outcomes.append(outcome(path, name))
    for _ in range(count // 4):
        target.write_bytes(data[: draw.randrange(len(data))])
        assert outcome(path, name) == "refused"
    # between the parts of a .pt2 file there is padding
    assert set(outcomes) <= (FINE if name == "binary.pt2" else {"refused"})


@pytest.mark.parametrize(
    "changes",
    [
        {"bytes_per_pixel": -1},
        {"bytes_per_pixel": math.nan},
        {"bytes_per_pixel": math.inf},
        {"windows": {"side": 10**9}},
        {"windows": {"side": 64, "step": 0}},
        {"windows": {"side": 64, "fixed": [64, 10**9]}},
        {"precision": "int1"},
        {"normalizes": "perhaps"},
        {"card": {}},
    ],
    ids=str,
)
def test_metadata_that_nobody_writes(changes, tmp_path):
    parts = read_parts(MADE / "binary.pt2")
    stored, (key,) = json.loads(parts["archive/extra/segkit.json"]), changes
    parts["archive/extra/segkit.json"] = json.dumps(stored | changes).encode()
    write_parts(tmp_path / "x.pt2", *parts.items())
    with pytest.raises(SegkitError, match=rf"metadata of .*x\.pt2 are broken.*{key}"):
        segkit.load(tmp_path / "x.pt2", device="cpu")


LAYOUT = {"multiple": None}
"""Cards of segkit 0.1.0 have no layout."""


def save_changed(path: Path, **changes) -> None:
    """The checkpoint of segkit 0.1.0 with another card: of dictionaries, some keys are changed."""
    stored = torch.load(MADE / "binary/checkpoints/best.ckpt", weights_only=True)
    card = copy.deepcopy(stored["segkit"])
    for key, value in changes.items():
        card[key] = card.get(key, {}) | value if isinstance(value, dict) else value
    torch.save(stored | {"segkit": card}, path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"normalization": {"mean": (math.nan,)}}, "normalization.mean.0=nan"),
        ({"normalization": {"std": (math.inf,)}}, "normalization.std.0=inf"),
        ({"normalization": {"low": -math.inf}}, "normalization.low"),
        ({"threshold": math.nan}, "threshold=nan"),
        ({"in_channels": 10**9}, "normalization needs a mean and a std for each"),
        ({"num_classes": 10**9}, "has 2 entries for num_classes=1000000000"),
        ({"encoder": {"width": 10**7}}, "cannot be built"),
        ({"encoder": {"width": 10**7}, "layout": LAYOUT}, "cannot be built"),
        ({"encoder": {"width": 4000}}, "is far larger than its weights"),
        ({"encoder": {"width": 4000}, "layout": LAYOUT}, "have another shape"),
        ({"encoder": {"depth": 10**6}}, "cannot be built"),
        ({"encoder": {"depth": 10**6}, "layout": LAYOUT}, "cannot be built"),
        ({"encoder": {"depth": 5}, "layout": LAYOUT}, "tensors are missing"),
    ],
    ids=str,
)
def test_cards_of_networks_that_cannot_be(changes, said, tmp_path):
    save_changed(tmp_path / "x.ckpt", **changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SegkitError) as error:
        segkit.load(tmp_path / "x.ckpt", device="cpu")
    assert said in str(error.value)
    assert str(tmp_path / "x.ckpt") in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kB


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weight: weight * math.nan, "1 tensors hold values that are no finite numbers"),
        (lambda weight: weight / 0, "1 tensors hold values that are no finite numbers"),
        (lambda weight: weight.to(torch.int64), "1 tensors have another type"),
        (lambda weight: weight.to(torch.complex64), "1 tensors have another type"),
        (lambda weight: weight.to_sparse(), "x.ckpt"),
        (lambda weight: weight.to("meta"), "1 are no tensors"),
        (lambda weight: weight[:1, :1, :1, :1].expand(weight.shape[0], 1, 3, 10**9), "shape"),
    ],
)
def test_weights_that_no_training_writes(change, said, tmp_path):
    stored = torch.load(MADE / "binary/checkpoints/best.ckpt", weights_only=True)
    name = "model.encoder.levels.0.0.0.weight"
    stored["state_dict"][name] = change(stored["state_dict"][name])
    torch.save(stored, tmp_path / "x.ckpt")
    with pytest.raises(SegkitError) as error:
        segkit.load(tmp_path / "x.ckpt", device="cpu")
    assert said in str(error.value)
    assert said == "x.ckpt" or "first encoder.levels.0.0.0.weight" in str(error.value)


def test_a_compressed_checkpoint_is_not_unpacked(tmp_path):
    with (
        zipfile.ZipFile(MADE / "binary/checkpoints/best.ckpt") as good,
        zipfile.ZipFile(tmp_path / "x.ckpt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in good.namelist():
            bomb.writestr(name, good.read(name))
        bomb.writestr(f"{good.namelist()[0].partition('/')[0]}/data/999", bytes(10**8))
    with pytest.raises(SegkitError, match="its parts are compressed or overlap"):
        segkit.load(tmp_path / "x.ckpt", device="cpu")


def test_names_of_weights_that_are_numbers(tmp_path):
    stored = torch.load(MADE / "binary/checkpoints/best.ckpt", weights_only=True)
    stored["state_dict"][5] = torch.ones(1)
    torch.save(stored, tmp_path / "x.ckpt")
    with pytest.raises(SegkitError, match="is not as segkit writes it"):
        segkit.load(tmp_path / "x.ckpt", device="cpu")


def test_a_timm_model_of_a_card_is_one_of_timm_itself(tmp_path):
    """A name with a colon would be a repository on the hub, or a folder."""
    found = {"arguments": {}, "multiple": 32, "fixed_size": None, "plain": False}
    layout = {"backbone": found | {"channels_last": False, "exact": True}}
    for encoder, said in (
        ({"model": "hf-hub:someone/resnet18"}, "is not one of timm"),
        ({"model": "local-dir:/tmp"}, "is not one of timm"),
        ({"model": "resnet18", "timm_args": {"checkpoint_path": "x"}}, "'checkpoint_path' is not"),
    ):
        save_changed(tmp_path / "x.ckpt", layout=layout)
        stored = torch.load(tmp_path / "x.ckpt", weights_only=True)
        stored["segkit"]["encoder"] = {"name": "timm", **encoder}
        torch.save(stored, tmp_path / "x.ckpt")
        with pytest.raises(SegkitError, match=said):
            segkit.load(tmp_path / "x.ckpt", device="cpu")


@pytest.mark.parametrize(
    "name", ["add.Tensor", "numpy_T.default", "__and__.Tensor", "__rshift__.Scalar"]
)
def test_operators_that_compute_are_taken(name):
    torch_export_file._check_operator(f"torch.ops.aten.{name}")


@pytest.fixture
def published(tmp_path):
    """A published model, and a function that changes its files; the hashes are made to fit."""
    from segkit.checkpoint.published import write_card, write_weights
    from segkit.checkpoint.reading import read_weights
    from segkit.core.published import CARD, WEIGHTS

    card, weights = read_weights(MADE / "binary/checkpoints/best.ckpt")
    write_weights(tmp_path / WEIGHTS, weights)
    write_card(tmp_path, card, {})

    def change(data: bytes | None = None, **changes) -> Path:
        stored = json.loads((tmp_path / CARD).read_text())
        stored["segkit"] |= changes
        if data is not None:
            (tmp_path / WEIGHTS).write_bytes(data)
            stored["sha256"][WEIGHTS] = hashlib.sha256(data).hexdigest()
        (tmp_path / CARD).write_text(json.dumps(stored))
        return tmp_path / WEIGHTS

    return change


def test_published_weights_that_are_a_pickle_run_nothing(published, tmp_path):
    path = published()
    assert outcome(path, "binary/checkpoints/best.ckpt") == "the same numbers"
    for data in (
        pickled(tmp_path / "mark"),
        pickle.dumps(Harmful(tmp_path / "mark")),
        (MADE / "binary/checkpoints/best.ckpt").read_bytes(),
    ):
        with pytest.raises(
            SegkitError, match=r"cannot be read as safetensors.*nothing of it was run"
        ):
            segkit.load(published(data), device="cpu")
    assert not (tmp_path / "mark").exists()


def test_damaged_published_weights_are_refused(published):
    path = published()
    data, draw = path.read_bytes(), random.Random(0)
    for _ in range(8):
        changed = bytearray(data)
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        assert outcome(path, "binary/checkpoints/best.ckpt") == "refused"
    path.write_bytes(data[:-1])
    assert outcome(path, "binary/checkpoints/best.ckpt") == "refused"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder": {"name": "unet", "width": 10**7}}, "cannot be built"),
        ({"encoder": {"name": "unet", "width": 4000}}, "is far larger than its weights"),
        ({"neck": {"name": "os.system"}}, "neck 'os.system' is not known"),
        ({"encoder": {"name": "timm", "model": "hf-hub:a/b"}}, "timm has no model"),
        ({"config": {"plugins": ["hostile.py"]}, "neck": {"name": "hostile"}}, "name them again"),
        ({"threshold": math.nan}, "threshold=nan"),
        ({"format": 99}, "of a newer segkit"),
        ({"frozen_sha256": "0" * 64, "encoder": {"name": "unet", "depth": 5}}, "have another|miss"),
        ({"class_names": "[" * 10**5}, "class_names"),
    ],
    ids=str,
)
def test_tampered_cards_of_published_models(changes, said, published, tmp_path, monkeypatch):
    (tmp_path / "hostile.py").write_text(f"import os; os.mkdir({str(tmp_path / 'mark')!r})")
    monkeypatch.chdir(tmp_path)
    path = published(**changes)
    with pytest.raises(SegkitError) as error:
        segkit.load(path, device="cpu")
    assert re.search(said, str(error.value))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "content", [b"", b"[" * 10**5, b'{"segkit": 1}', b"\xff\xfe", b"9" * 5000, b" " * 2**24 + b"{}"]
)
def test_a_config_json_that_is_no_card(content, published, tmp_path):
    path = published()
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(SegkitError, match=r"model\.safetensors|config\.json"):
        segkit.load(path, device="cpu")
