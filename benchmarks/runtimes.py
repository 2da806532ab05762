"""Exported networks of segkit and of segmentation-models-pytorch on ONNX Runtime and OpenVINO.

    python benchmarks/runtimes.py

Both are written with a sigmoid, segkit's by what ``python -m segkit.export`` does, SMP's by
torch.onnx.export with the same free axes, and run by the same runtime with the same settings.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from harness.process import Candidate, Spec, run_script
from harness.side_by_side import Case, compare_cases, make_network_parser, publish, require_peers
from segkit.benchmark.results import Section

ENCODERS = ("resnet34", "mobilenetv3_large_100")
SHAPES = ("4x256", "1x512")
OPSET = 18


def onnx_session(
    path: str, batch: int, side: int, threads: int | None, work: dict[str, Any]
) -> Candidate:
    """A file of ONNX by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    images = np.random.default_rng(0).random((batch, 3, side, side), np.float32)
    return Candidate(lambda: session.run(None, {name: images}), lambda: work)


def openvino_session(
    path: str, batch: int, side: int, threads: int | None, work: dict[str, Any]
) -> Candidate:
    """The same file by OpenVINO, in float32."""
    import openvino

    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(path, "CPU", options)
    images = np.random.default_rng(0).random((batch, 3, side, side), np.float32)
    return Candidate(lambda: np.array(compiled(images)[0]), lambda: work)


RUNTIMES = {"ONNX Runtime": onnx_session, "OpenVINO": openvino_session}


def export(architecture: str, encoder: str, folder: Path) -> dict[str, Path]:
    """The files of both, by name; of the U-Net with the same weights.

    Raises:
        SegkitError: A network cannot be exported.
    """
    import torch
    from torch.export import Dim

    from networks import EQUAL, build_smp, copy_unet
    from segkit.benchmark.networks import build_network, make_bare_card
    from segkit.export.command import describe_model
    from segkit.export.formats import write_network
    from segkit.export.graph import silence_exporters

    torch.manual_seed(0)
    neck = EQUAL[architecture]
    ours = build_network({"name": encoder}, neck, 3, 1, 256)
    theirs = build_smp(architecture, encoder).eval()
    if architecture == "unet":
        copy_unet(theirs, ours)
    contents = describe_model(
        ours.eval(), make_bare_card(ours, 256), normalizes=False, activates=True
    )
    files = {name: folder / f"{architecture}-{encoder}-{name}.onnx" for name in ("segkit", "smp")}
    write_network([ours], contents, "onnx", files["segkit"])
    free = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
    with silence_exporters(), torch.no_grad():
        torch.onnx.export(
            torch.nn.Sequential(theirs, torch.nn.Sigmoid()),
            (torch.zeros(2, 3, 256, 320),),
            str(files["smp"]),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(free,),
            external_data=False,
            verbose=False,
        )
    return files


def count_work(architecture: str, encoder: str, batch: int, side: int) -> dict[str, Any]:
    """Parameters and counted work of a batch."""
    import torch

    from harness.networks import Facts
    from networks import EQUAL
    from segkit.benchmark.networks import build_network

    model = build_network({"name": encoder}, EQUAL[architecture], 3, 1, side).eval()
    with torch.no_grad():
        return Facts(model).of(lambda: model(torch.zeros(batch, 3, side, side)))()


def compare_files(files: dict[str, Path]) -> float:
    """The largest difference of the probabilities of both files."""
    import onnxruntime

    image = np.random.default_rng(1).random((1, 3, 128, 160), np.float32)
    maps = []
    for path in files.values():
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        maps.append(session.run(None, {session.get_inputs()[0].name: image})[0])
    return float(np.abs(maps[0] - maps[1]).max())


def main() -> None:
    parser = make_network_parser(str(__doc__), rounds=10, warm_up=2)
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), help="names of timm")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), help="BATCHxSIDE")
    options = parser.parse_args()
    require_peers("segmentation_models_pytorch", "onnxruntime", "onnxscript", "openvino")
    pairs = [(a, encoder) for a in ("unet", "fpn") for encoder in options.encoders]
    with tempfile.TemporaryDirectory() as name:
        cases, same = [], []
        for architecture, encoder in pairs:
            if not _is_wanted(f"{architecture} {encoder}", options):
                continue
            print(f"exporting {architecture} {encoder}", flush=True)
            files = export(architecture, encoder, Path(name))
            shared = architecture == "unet"
            same.append(
                {
                    "network": f"{architecture} {encoder}",
                    **{f"{n}, MB": path.stat().st_size / 1e6 for n, path in files.items()},
                    "largest difference": compare_files(files) if shared else None,
                }
            )
            cases += _list_cases(architecture, encoder, files, options)
        done = compare_cases(cases, options)
    sections = [Section("The files", same, [SAME]), *done.make_sections()]
    title = "Exported networks against those of segmentation-models-pytorch"
    publish("runtimes", title, options, done.machine, sections, [WHAT], done.as_data())


def _is_wanted(network: str, options: Any) -> bool:
    """Whether any case of a network was requested: an export takes long."""
    names = [f"{network} {shape} {runtime}" for shape in options.shapes for runtime in RUNTIMES]
    return any(all(text in name for text in options.only) for name in names)


def _list_cases(
    architecture: str, encoder: str, files: dict[str, Path], options: Any
) -> list[Case]:
    made = []
    for shape in options.shapes:
        batch, side = map(int, shape.split("x"))
        work = count_work(architecture, encoder, batch, side)
        for runtime, session in RUNTIMES.items():
            size = {"batch": batch, "side": side, "threads": options.threads, "work": work}
            specs = {
                name: Spec(session, {"path": str(path), **size}, threads=options.threads)
                for name, path in files.items()
            }
            made.append(Case(f"{architecture} {encoder} {shape} {runtime}", specs))
    return made


WHAT = (
    "Both files take any batch, height and width and give probabilities; each runtime has the same"
    " settings for both (float32, the same threads). Milliseconds are of a batch."
)
SAME = (
    "The U-Nets have the same weights, and the largest difference is that of their probabilities."
    " The FPNs differ in the number of groups and in an interpolation, see networks.md."
)

if __name__ == "__main__":
    run_script(main)
