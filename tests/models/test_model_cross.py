"""The heavy cross: every encoder x neck x upsampling x head, and every compiler and number type."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from segkit.models.encoders import Encoder
from segkit.models.heads import Head
from segkit.models.necks import Neck
from segkit.models.segmenter import Segmenter

CONF = Path(__file__).parents[2] / "conf"
PRESETS = sorted(path.stem for path in (CONF / "encoder").glob("*.yaml") if path.stem != "timm")
UPSAMPLES = ("nearest", "bilinear", "deconv")
PYRAMIDS = [(1, 2, 4, 8, 16), (4, 8, 16, 32)]  # of the 2015 stack and of a ConvNeXt

pytestmark = [
    pytest.mark.slow,
    # what torch's own compilers say about their innards
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module", params=PRESETS)
def preset(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def encoder(preset) -> Encoder:
    torch.manual_seed(0)
    return Encoder.build(preset, pretrained=False)


def decoder(channels, strides, neck: str, upsample: str, head: str) -> tuple[Neck, Head]:
    parts = Neck.build(neck, channels=channels, strides=strides, upsample=upsample)
    classes = {} if head == "binary" else {"num_classes": 3}
    return parts, Head.build(head, in_channels=parts.out_channels, **classes)


@pytest.mark.parametrize("neck", Neck.names())
def test_every_combination_runs_and_trains(encoder, neck):
    encoder.train().zero_grad(set_to_none=True)
    maps = encoder(torch.rand(2, 3, 64, 64))  # once for all decoders: it is what takes time
    total = torch.zeros(())
    models = []
    for upsample in UPSAMPLES:
        for name in Head.names():
            middle, head = decoder(encoder.channels, encoder.strides, neck, upsample, name)
            total = total + head(middle(maps)).square().mean()
            models.append((f"{neck}, {upsample}, {name}", Segmenter(encoder, middle, head)))
    total.backward()
    for turn, (case, model) in enumerate(models):
        assert all(p.grad is not None for p in model.parameters()), case
        model.eval()
        x = torch.rand(1, 3, 33, 50)
        with torch.no_grad():
            logits = model(x)
            assert logits.shape == (1, model.head.num_logits, 33, 50), case
            if turn % 4:  # modes of upsampling and heads take turns
                continue
            with torch.autocast("cpu", torch.bfloat16):
                mixed = model(x)
            assert mixed.shape == logits.shape, case
            assert torch.isfinite(mixed).all(), case
            last = copy.deepcopy(model).to(memory_format=torch.channels_last)(
                x.to(memory_format=torch.channels_last)
            )
            torch.testing.assert_close(last, logits, rtol=1e-3, atol=1e-4, msg=case)


@pytest.mark.parametrize("neck", Neck.names())
def test_bfloat16_is_near_float32(encoder, neck):
    head = Head.names()[Neck.names().index(neck) % 3]
    middle, last = decoder(encoder.channels, encoder.strides, neck, "bilinear", head)
    model = copy.deepcopy(Segmenter(encoder, middle, last)).eval()
    x = torch.rand(1, 3, 65, 33)
    with torch.no_grad():
        expected = model(x)
        half = model.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    spread = (expected.max() - expected.min()).clamp(min=0.1)
    assert (half.float() - expected).abs().max() < 0.2 * spread


@pytest.mark.parametrize("neck", Neck.names())
def test_export_and_compile_see_one_whole_graph(preset, encoder, neck):
    turn = Neck.names().index(neck)
    middle, head = decoder(
        encoder.channels, encoder.strides, neck, UPSAMPLES[turn % 3], Head.names()[turn % 3]
    )
    model = Segmenter(encoder, middle, head).eval()
    x = torch.rand(1, 3, 65, 33)
    with torch.no_grad():
        expected = model(x)
        program = torch.export.export(model, (x,), strict=True)
        torch.testing.assert_close(program.module()(x), expected)
        if turn == PRESETS.index(preset) % 3:  # one neck for each encoder
            torch._dynamo.reset()
            compiled = torch.compile(model, fullgraph=True, backend="eager")
            torch.testing.assert_close(compiled(x), expected)


class _Decoder(nn.Module):
    """A neck and a head, for the compilers alone."""

    def __init__(self, neck: Neck, head: Head) -> None:
        super().__init__()
        self.neck, self.head = neck, head

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.head.activate(self.head(self.neck(maps)))


@pytest.mark.parametrize("strides", PYRAMIDS)
@pytest.mark.parametrize("neck", Neck.names())
@pytest.mark.parametrize("upsample", UPSAMPLES)
def test_every_decoder_exports_and_compiles(strides, neck, upsample):
    channels = tuple(range(4, 4 + len(strides)))
    maps = [
        torch.rand(1, c, 2 * strides[-1] // s, 2 * strides[-1] // s)
        for c, s in zip(channels, strides, strict=True)
    ]
    for name in Head.names():
        model = _Decoder(*decoder(channels, strides, neck, upsample, name)).eval()
        with torch.no_grad():
            expected = model(maps)
            program = torch.export.export(model, (maps,), strict=True)
            torch.testing.assert_close(program.module()(maps), expected)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(maps), expected)


@pytest.mark.parametrize("neck", Neck.names())
def test_training_steps_compile_with_auxiliary_heads_and_the_unpadded_network(neck):
    parts = Encoder.build("unet", depth=3, width=4, in_channels=1, dropout=0.0)
    middle, head = decoder(parts.channels, parts.strides, neck, "deconv", "binary")
    heads = [Head.build("binary", in_channels=c) for c in middle.level_channels[1:2]]
    model = Segmenter(parts, middle, head, heads)
    torch._dynamo.reset()
    compiled = torch.compile(model.all_logits, fullgraph=True, backend="aot_eager")
    x = torch.rand(2, 1, 41, 30)
    for a, b in zip(compiled(x), model.all_logits(x), strict=True):
        torch.testing.assert_close(a, b)
    sum(m.mean() for m in compiled(x)).backward()
    assert all(p.grad is not None for p in model.parameters())
    valid = Encoder.build("unet", depth=3, width=4, in_channels=1, padding="valid")
    neck_of = Neck.build("unet", channels=valid.channels, strides=valid.strides, padding="valid")
    paper = Segmenter(valid, neck_of, Head.build("binary", in_channels=4)).eval()
    with torch.no_grad():
        x = torch.rand(1, 1, 92, 108)
        program = torch.export.export(paper, (x,), strict=True)
        torch.testing.assert_close(program.module()(x), paper(x))


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize(("neck", "upsample"), [("unet", "deconv"), ("fpn", "bilinear")])
def test_inductor(neck, upsample):
    parts = Encoder.build("unet", width=8, depth=3)
    model = Segmenter(
        parts, *decoder(parts.channels, parts.strides, neck, upsample, "multiclass")
    ).eval()
    x = torch.rand(1, 3, 40, 33)
    torch._dynamo.reset()
    with torch.no_grad():
        actual = torch.compile(model, fullgraph=True)(x)
        torch.testing.assert_close(actual, model(x), rtol=1e-3, atol=1e-4)
