"""What torch may read of a .pt2 file: weights, operators by name and formulas of sizes.

torch unpickles, imports, evaluates and compiles what it finds in such a file: formulas, guards,
names of arguments and modules, descriptions of inputs. So it never sees the file. It reads a copy
that is made here of what an exported network needs, checked entry by entry and string by string.
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

EXTRA = "extra/"
"""The folder of the entries that are not torch's own."""
_ENTRY = re.compile(
    r"models/model\.json|extra/segkit\.json|data/weights/weight_\d+|data/constants/tensor_\d+"
    r"|data/(weights/model_weights|constants/model_constants)_config\.json"
    r"|data/(weights|constants|sample_inputs)/model\.pt"  # the first two of torch 2.8
    r"|archive_(format|version)|byteorder|(\.data/)?version|\.data/serialization_id"
)
_NAME = re.compile(r"((?!__)[A-Za-z0-9_]+)?")  # torch compiles "NAME = operator(...)"
_PATH = re.compile(rf"{_NAME.pattern}(\.{_NAME.pattern})*")  # of a weight
_PATHS = "parameter_name", "buffer_name", "tensor_constant_name"
_NUMBER = re.compile(r"-?Infinity|NaN")  # what JSON cannot hold as a number
_ATEN = re.compile(
    r"torch\.ops\.aten\.((?!__)[A-Za-z0-9_]+|__(?:and|or|xor|lshift|rshift)__)\.((?!__)[A-Za-z0-9_]+)"
)
_SIZE_OPERATORS = {
    *(f"_operator.{name}" for name in ("eq", "ne", "le", "ge", "lt", "gt", "neg", "pos")),
    *(f"_operator.{name}" for name in ("add", "sub", "mul", "floordiv", "mod", "truediv", "pow")),
    *(f"_operator.{name}" for name in ("and_", "or_")),
    *(f"torch.sym_{name}" for name in ("int", "float", "ite", "max", "min", "not")),
    "math.trunc",
}
_FUNCTIONS = {
    *("Add", "Mul", "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CeilDiv", "CleanDiv"),
    *("ModularIndexing", "IntTrueDiv", "FloatTrueDiv", "Where", "Identity", "ToFloat"),
    *("CeilToInt", "FloorToInt", "RoundToInt", "TruncToInt", "TruncToFloat"),
    *("And", "Or", "Not", "Equality", "Unequality", "true", "false"),
    *("GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan"),
    *("Integer", "Rational", "Symbol"),
}
_SYMBOL = re.compile(r"[a-z]{1,3}\d{1,4}")
_TREE = [1, {"type": None, "context": None, "children_spec": []}]
_ARGUMENTS = {"type": "builtins.tuple", "context": "null", "children_spec": [_TREE[1]]}
_NO_KEYWORDS = {"type": "builtins.dict", "context": "[]", "children_spec": []}
_CALL = {
    "inputs": [],
    "outputs": [],
    "in_spec": json.dumps([1, {**_ARGUMENTS, "children_spec": [_ARGUMENTS, _NO_KEYWORDS]}]),
    "out_spec": json.dumps(_TREE),
    "forward_arg_names": ["image"],
}
"""How a network is called: with one tensor, which gives one."""


class UnknownContentError(Exception):
    """A file holds what no network needs; the message names it."""


def copy_program(path: Path) -> io.BytesIO:
    """Copy what :func:`torch.export.load` needs, without anything that it could run.

    Raises:
        UnknownContentError: The file holds anything else.
        Exception: The file is damaged. zipfile, json and pickle have many kinds.
    """
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
        parts = {part.filename.partition("/")[2]: part for part in source.infolist()}
        sizes = {name: part.file_size for name, part in parts.items()}
        _require(len(parts) == len(source.infolist()), "several parts of one name")
        packed = sum(sizes.values()) > path.stat().st_size
        _require(not packed, "parts that are compressed or overlap")
        for name, part in parts.items():
            _require(_ENTRY.fullmatch(name), f"a part {name!r}")
            content = source.read(part)  # this compares the checksum
            if name.startswith("data/sample_inputs/"):
                content = b""
            elif name.endswith(".pt"):
                _check_tensors(content)
            elif name == "models/model.json":
                content = json.dumps(_rebuild_program(_parse(content))).encode()
            elif name.endswith("_config.json"):
                folder = name.rpartition("/")[0]
                content = json.dumps(_rebuild_weights(_parse(content), folder, sizes)).encode()
            if not name.startswith(EXTRA):
                target.writestr(f"model/{name}", content)
    copy.seek(0)
    return copy


def _parse(content: bytes) -> Any:
    """Parse JSON in which no key occurs twice: readers differ in which one counts."""

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(built := dict(pairs)) < len(pairs):
            raise UnknownContentError("a key that occurs twice")
        return built

    return json.loads(content, object_pairs_hook=build)


def _rebuild_program(stored: dict[str, Any]) -> dict[str, Any]:
    """Make the program of its graph alone. Guards are code, and metadata hold places in code."""
    module = stored["graph_module"]
    for name in stored["range_constraints"]:  # torch counts up to the number in some of them
        _require(_SYMBOL.fullmatch(name), f"the size {name!r}")
    return {
        **{key: _copy(stored[key]) for key in ("opset_version", "range_constraints")},
        **{key: _copy(stored[key]) for key in ("schema_version", "verifiers")},
        "graph_module": {
            "graph": _copy(module["graph"]),
            "signature": _copy(module["signature"]),
            "module_call_graph": [{"fqn": "", "signature": _CALL}],
        },
    }


def _rebuild_weights(stored: dict[str, Any], folder: str, sizes: dict[str, int]) -> dict[str, Any]:
    """Copy the list of tensors, none of which is pickled or larger than its bytes."""
    tensors = {}
    for name, tensor in stored["config"].items():
        _require(tensor["use_pickle"] is False, f"a pickled object {name!r}")
        count = math.prod(size["as_int"] for size in tensor["tensor_meta"]["sizes"])
        fits = 0 <= count <= sizes[f"{folder}/{tensor['path_name']}"]
        _require(fits, f"a tensor {name!r} of {count} elements, but not their bytes")
        tensors[_copy(name, _PATHS[0])] = _copy(tensor)
    return {"config": tensors}


def _check_tensors(content: bytes) -> None:
    """Check that pickled bytes hold named tensors: torch would unpickle anything else too."""
    try:
        held = torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:  # pickle has many kinds
        raise UnknownContentError("pickled objects") from error
    for name, tensor in held.items():
        fits = type(tensor) in (Tensor, nn.Parameter) and tensor.numel() <= len(content)
        _require(fits, f"a pickled object {name!r}")
        _copy(name, _PATHS[0])


def _copy(value: Any, key: str = "") -> Any:
    """Copy JSON whose keys and strings are names, operators or formulas; ``key`` is the value's."""
    if isinstance(value, dict):
        return {
            _copy(name): {} if name == "metadata" else _copy(held, name)
            for name, held in value.items()
        }
    if isinstance(value, list):
        return [_copy(one, key) for one in value]
    if isinstance(value, str):
        if key in ("target", "as_operator"):
            _check_operator(value)
        elif key == "expr_str":
            _check_formula(value)
        elif key in ("as_float", "as_floats"):
            _require(_NUMBER.fullmatch(value), f"{key} {value!r}")
        elif key != "as_string":
            pattern = _PATH if key in _PATHS else _NAME
            _require(pattern.fullmatch(value), f"the name {value!r}")
    return value


def _require(fits: object, what: str) -> None:
    if not fits:
        raise UnknownContentError(what)


def _check_operator(target: str) -> None:
    """Check that a node computes with tensors or sizes, and reaches no file."""
    if target in _SIZE_OPERATORS:
        return
    found = _ATEN.fullmatch(target)
    operator = getattr(getattr(torch.ops.aten, found[1], None), found[2], None) if found else None
    if not isinstance(operator, torch._ops.OpOverload) or any(
        argument.name == "filename" for argument in operator._schema.arguments
    ):
        raise UnknownContentError(f"the operator {target!r}")


def _check_formula(text: str) -> None:
    """Check that a formula, which torch evaluates as Python, only computes with sizes."""
    for node in ast.walk(ast.parse(text, mode="eval")):
        match node:
            case ast.Expression() | ast.Load() | ast.keyword() | ast.USub() | ast.UnaryOp():
                fits = True
            case ast.Call(func=ast.Name()):
                fits = True
            case ast.Name(id=name):
                fits = name in _FUNCTIONS
            case ast.Constant(value=str(name)):
                fits = bool(_SYMBOL.fullmatch(name))
            case ast.Constant(value=value):
                fits = isinstance(value, int)
            case _:
                fits = False
        _require(fits, f"the formula {text!r}")
