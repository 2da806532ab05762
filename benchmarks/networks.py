"""Training and inference against segmentation-models-pytorch: python benchmarks/networks.py

The decoders of both libraries with the same encoders, one class, in processes that take turns:
U-Net and FPN with all encoders and shapes, the others with the first of them. SMP runs as its users
run it (contiguous, eval and no_grad), and in its better setting (channels_last and inference_mode).
Both get the same images, loss and optimizer; SMP gets the 1x1 head of segkit and no dropout, so
that it does no work that segkit does not. That the U-Nets compute the same is shown first, by
copying the weights; tests/peers/test_peer_decoders.py shows it of all decoders.

On a GPU: --device cuda --dtype bfloat16 --encoders resnet50 --shapes 16x512 --only training
[--compile].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness import networks
from harness.networks import Facts
from harness.process import Candidate, Spec, run_script
from harness.roofline import BYTES_OF_ADAMW
from harness.side_by_side import Case, compare_cases, make_network_parser, publish, require_peers
from segkit.benchmark.networks import build_network, use_precision
from segkit.benchmark.results import Section
from segkit.core.allocator import keep_freed_memory
from segkit.core.errors import SegkitError
from segkit.losses.base import build_typical_loss
from segkit.models.conv import plain_joins
from segkit.models.segmenter import Segmenter

ENCODERS = ("resnet34", "mobilenetv3_large_100")
SHAPES = ("4x256", "1x512")
EQUAL = {
    "unet": {"name": "unet"},
    "fpn": {"name": "fpn", "smooth": False, "norm": "group", "upsample": "bilinear"},
    **{
        name: {"name": name}
        for name in ("unetplusplus", "linknet", "manet", "pan", "pspnet", "deeplabv3")
    },
    **{name: {"name": name} for name in ("deeplabv3plus", "upernet", "segformer")},
}
"""Necks of segkit that are as SMP's."""
CLASSES = {
    **{"unet": "Unet", "fpn": "FPN", "unetplusplus": "UnetPlusPlus", "linknet": "Linknet"},
    **{"manet": "MAnet", "pan": "PAN", "pspnet": "PSPNet", "deeplabv3": "DeepLabV3"},
    **{"deeplabv3plus": "DeepLabV3Plus", "upernet": "UPerNet", "segformer": "Segformer"},
}
"""SMP's names of the decoders. Its DPT takes plain transformers only."""
ENCODING = {
    "pan": {"output_stride": 16},
    "pspnet": {"depth": 3},
    "deeplabv3": {"output_stride": 8},
    "deeplabv3plus": {"output_stride": 16},
}
"""Options of segkit's encoders that are SMP's defaults for a decoder."""
IN_FULL = ("unet", "fpn")
"""What is measured with every encoder and shape."""
SMP, LAST, KEPT = "smp", "smp channels_last", "smp channels_last, memory kept"
MOST = {
    ("unet", "resnet34", "inference"): {SMP: 0.65, LAST: 0.75},
    ("unet", "resnet34", "training"): {LAST: 0.85, f"{LAST} MB": 0.80},
    ("fpn", "resnet34", "inference"): {LAST: 0.80},
    ("fpn", "resnet34", "training"): {LAST: 0.90},
}
"""Target ratios of time and memory on two cores."""
TOLERANCE = 1e-4
SIDE = 256
"""Of the image for which operations are counted."""


def build_smp(architecture: str, encoder: str) -> nn.Module:
    """SMP's network with random weights, its head and dropout as segkit's."""
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    # its own encoders where it has them, else those of timm
    name = encoder if encoder in smp.encoders.encoders else f"tu-{encoder}"
    model = getattr(smp, CLASSES[architecture])(encoder_name=name, encoder_weights=None, classes=1)
    width = model.segmentation_head[0].in_channels
    model.segmentation_head[0] = nn.Conv2d(width, 1, 1)
    for layer in model.modules():
        if isinstance(layer, nn.Dropout | nn.Dropout2d):
            layer.p = 0.0
    return model


def _laid_out(
    model: nn.Module, device: str, layout: torch.memory_format
) -> tuple[nn.Module, Facts]:
    """A network on its device in a layout of memory, and what is counted of it."""
    facts = Facts(model.to(device))
    return model.to(memory_format=layout), facts


def prepare_smp_inference(
    architecture: str,
    encoder: str,
    batch: int,
    side: int,
    best: bool,
    device: str = "cpu",
    dtype: str = "float32",
    compiled: bool = False,
) -> Candidate:
    """Probabilities of a batch by SMP, plainly or in its best setting."""
    layout = torch.channels_last if best else torch.contiguous_format
    model, facts = _laid_out(build_smp(architecture, encoder).eval(), device, layout)
    run_model = torch.compile(model) if compiled else model
    given = torch.rand(batch, 3, side, side).numpy()

    def run() -> Tensor:
        with torch.inference_mode() if best else torch.no_grad(), use_precision(device, dtype):
            images = torch.from_numpy(given).to(device).contiguous(memory_format=layout)
            return torch.sigmoid(run_model(images).float())

    def forward() -> None:
        with torch.no_grad():
            model(torch.from_numpy(given).to(device))

    return Candidate(run, facts.of(forward), device)


def prepare_smp_training(
    architecture: str,
    encoder: str,
    batch: int,
    side: int,
    best: bool,
    device: str = "cpu",
    dtype: str = "float32",
    compiled: bool = False,
    kept: bool = False,
    tuned: bool = False,
) -> Candidate:
    """A training step of SMP, with the loss and the optimizer of segkit's, or its memory too."""
    if kept:
        keep_freed_memory()
    torch.backends.cudnn.benchmark = tuned
    layout = torch.channels_last if best else torch.contiguous_format
    model, facts = _laid_out(build_smp(architecture, encoder).train(), device, layout)
    run_model = torch.compile(model) if compiled else model
    loss = build_typical_loss("binary", queries=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    images = torch.rand(batch, 3, side, side, device=device)
    labels = torch.randint(0, 2, (batch, side, side), device=device)

    def step(network: Any) -> None:
        with use_precision(device, dtype):
            value = loss(network(images.contiguous(memory_format=layout)), labels)
        torch.autograd.backward(value)
        optimizer.step()
        optimizer.zero_grad()

    return Candidate(lambda: step(run_model), facts.of(lambda: step(model), BYTES_OF_ADAMW), device)


def copy_unet(theirs: nn.Module, ours: Segmenter) -> None:
    """Give our U-Net the weights of SMP's.

    Raises:
        SegkitError: They have not the same layers.
    """
    pairs = [
        (dict(ours.encoder.state_dict()), dict(theirs.encoder.state_dict())),
        (dict(ours.neck.state_dict()), dict(theirs.decoder.state_dict())),
        (dict(ours.head.state_dict()), dict(theirs.segmentation_head.state_dict())),
    ]
    upsampled = theirs.encoder.out_channels[-1]
    with torch.no_grad():
        for own, given in pairs:
            if len(own) != len(given):
                raise SegkitError(f"{len(own)} tensors of segkit against {len(given)} of SMP")
            for target, (key, source) in zip(own.values(), given.items(), strict=True):
                value = source
                if key.startswith("blocks.") and key.endswith("conv1.0.weight"):
                    # the skip comes first in segkit, last in SMP
                    value = torch.cat([source[:, upsampled:], source[:, :upsampled]], 1)
                    upsampled = source.shape[0]
                if target.shape != value.shape:
                    raise SegkitError(f"{key}: {tuple(target.shape)} against {tuple(value.shape)}")
                target.copy_(value)


def prove_equal(encoder: str) -> float:
    """The largest difference of the logits of both U-Nets with the same weights.

    Raises:
        SegkitError: They do not compute the same.
    """
    torch.manual_seed(0)
    theirs = build_smp("unet", encoder)
    for layer in theirs.modules():  # as after a training: else the norms do nothing
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    ours = build_network({"name": encoder}, EQUAL["unet"], 3, 1, 128)
    copy_unet(theirs, ours)
    image = torch.rand(2, 3, 128, 160)
    with torch.no_grad():
        a, b = ours.eval()(image), theirs.eval()(image)
    difference = float((a - b).abs().max() / b.abs().max())
    if not difference < TOLERANCE:
        raise SegkitError(f"unet {encoder}: the logits differ by {difference:.1e} of the largest.")
    return difference


def list_cases(options: Any) -> list[Case]:
    """All that is compared."""
    made = []
    for kind in ("inference", "training"):
        for architecture in options.necks:
            count = None if architecture in IN_FULL else 1
            for encoder in options.encoders[:count]:
                for shape in options.shapes[:count]:
                    made.append(make_case(kind, architecture, encoder, shape, options))
    return made


def make_case(kind: str, architecture: str, encoder: str, shape: str, options: Any) -> Case:
    """A network in one size, by segkit and in all ways by SMP."""
    is_training = kind == "training"
    ours = networks.train if is_training else networks.predict
    smp = prepare_smp_training if is_training else prepare_smp_inference
    batch, side = map(int, shape.split("x"))
    size = {"batch": batch, "side": side, "device": options.device, "dtype": options.dtype}
    own: dict[str, Any] = {"encoder": {"name": encoder, **ENCODING.get(architecture, {})}, **size}
    theirs = {"architecture": architecture, "encoder": encoder, **size}
    if options.compile and is_training:
        own["compiled"] = True
    specs: dict[str, tuple[Any, dict[str, Any]]] = {
        "segkit": (ours, {**own, "neck": EQUAL[architecture]}),
        SMP: (smp, {**theirs, "best": False}),
        LAST: (smp, {**theirs, "best": True}),
    }
    if is_training and options.device == "cpu":
        specs[KEPT] = (smp, {**theirs, "best": True, "kept": True})
    if options.compile:
        specs[f"{LAST} compiled"] = (smp, {**theirs, "best": True, "compiled": True})
    if architecture == "fpn":
        specs["segkit's own fpn"] = (ours, {**own, "neck": {"name": "fpn"}})
    return Case(
        f"{architecture} {encoder} {kind} {batch} x 3 x {side} x {side}",
        {name: Spec(*spec, threads=options.threads) for name, spec in specs.items()},
        MOST.get((architecture, encoder, kind), {}),
    )


def list_architectures(necks: list[str], encoders: list[str]) -> list[dict[str, object]]:
    """Size and work of both, and the largest difference of their logits with the same weights."""
    rows: list[dict[str, object]] = []
    for name in necks:
        for encoder in encoders[: None if name in IN_FULL else 1]:
            parts = {"name": encoder, **ENCODING.get(name, {})}, EQUAL[name]
            row: dict[str, object] = {"network": f"{name} {encoder}"}
            for library, model in (
                ("segkit", build_network(*parts, 3, 1, SIDE)),
                ("smp", build_smp(name, encoder)),
            ):
                row[f"{library}, million parameters"] = count_parameters(model) / 1e6
                row[f"{library}, GFLOPs"] = count_gflops(model)
            row["difference of logits"] = prove_equal(encoder) if name == "unet" else None
            rows.append(row)
    return rows


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def count_gflops(model: nn.Module) -> float:
    """Billions of operations for one image, as the architecture says them."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), plain_joins(), sdpa_kernel(SDPBackend.MATH), counter:
        model.eval()(torch.zeros(1, 3, SIDE, SIDE))
    return counter.get_total_flops() / 1e9


def main() -> None:
    parser = make_network_parser(str(__doc__), rounds=6, warm_up=2)
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), help="names of timm")
    parser.add_argument("--necks", nargs="+", default=list(EQUAL), help="names of segkit's necks")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), help="BATCHxSIDE")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--compile", action="store_true", help="compile both, on a GPU")
    options = parser.parse_args()
    require_peers("segmentation_models_pytorch")
    same = list_architectures(options.necks, options.encoders)
    done = compare_cases(list_cases(options), options, options.device, options.dtype)
    sections = [Section("The same networks", same, SAME), *done.make_sections(RATIOS)]
    title = "Networks against segmentation-models-pytorch"
    publish("networks", title, options, done.machine, sections, [WHAT], done.as_data())


WHAT = (
    "`smp` runs as its users run it: contiguous, eval and no_grad; `smp channels_last` is its"
    " better setting, with inference_mode. Inference is from an array of numpy to probabilities; a"
    " training step is forward, Dice + cross-entropy, backward and AdamW. segkit's commands keep"
    " freed memory for the next step; `memory kept` shows what SMP would gain of that. SMP has"
    " segkit's 1x1 head here, and no dropout: it does no work that segkit does not."
)
SAME = [
    "The U-Nets have the same blocks: with SMP's weights segkit gives SMP's logits (the largest"
    " difference, against the largest logit). `fpn` is compared as SMP has it, without smoothing"
    " convolutions, with group norm and bilinear upsampling; `segkit's own fpn` has the 3x3"
    " smoothing of the paper, batch norm and nearest upsampling. The number of groups and the"
    " interpolation on the way down are not SMP's, which is why its logits are not compared. PSPNet"
    " ends with the 3x3 convolution of its authors, SMP's with 1x1, and builds the stages that it"
    " does not run; SegFormer computes its last layer before it upsamples. That the other decoders"
    " give SMP's maps with SMP's weights is tested (tests/peers/test_peer_decoders.py)."
]
RATIOS = (
    "Ratios are medians over the pairs of a round, with their quartiles. The floor is that of"
    " segkit's network: operations as the architecture says them over the rate of a large matrix"
    " product or convolution, or bytes over that of a copy. Ways of computing that save operations"
    " can be below it."
)

if __name__ == "__main__":
    run_script(main)
