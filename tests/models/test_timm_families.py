"""Backbones of every kind in timm: each is an encoder, or an error that says why not."""

from __future__ import annotations

import gc
import json

import pytest
import timm
import torch
from torch import nn

from segkit.core.errors import SegkitError
from segkit.models.encoders import Encoder
from segkit.models.encoders.timm import find_current_name
from segkit.models.segmenter import create_model

# fmt: off
ANY_SIZE = [
    "swin_tiny_patch4_window7_224", "swinv2_cr_tiny_ns_224", "vit_tiny_patch16_224",
    "vit_small_patch32_224", "vit_small_patch14_dinov2", "vit_small_patch16_dinov3",
    "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224", "eva02_tiny_patch14_224",
    "naflexvit_base_patch16_gap", "pvt_v2_b0", "mobilevit_xxs", "mobilevitv2_050",
    "hrnet_w18_small", "densenet121", "inception_v3", "inception_v4", "dla34", "edgenext_xx_small",
    "repvgg_a0", "focalnet_tiny_srf", "mambaout_femto", "xcit_nano_12_p16_224", "regnetx_002",
    "regnety_002", "convnextv2_atto", "dm_nfnet_f0", "ese_vovnet19b_dw", "ghostnet_100",
    "mobilenetv4_conv_small", "efficientvit_b0", "efficientvit_m0", "fastvit_t8",
    "tiny_vit_5m_224", "poolformer_s12", "convformer_s18", "cspresnet50", "legacy_xception",
    "rexnet_100", "tf_efficientnetv2_b0", "res2net50_26w_4s", "selecsls42b", "nextvit_small",
    "inception_next_atto", "repvit_m0_9", "starnet_s1", "hgnetv2_b0", "davit_tiny",
    "twins_svt_small", "sequencer2d_s", "convmixer_768_32", "crossvit_9_240", "shvit_s1",
    "rdnet_tiny", "xception41", "lcnet_050",
]
ONE_SIZE = [
    "beit_base_patch16_224", "maxvit_pico_rw_256", "coatnet_pico_rw_224", "efficientformer_l1",
    "efficientformerv2_s0", "levit_128s", "hiera_tiny_224", "mvitv2_tiny", "cait_xxs24_224",
    "pit_ti_224", "nest_tiny", "gcvit_xxtiny", "volo_d1_224", "mixer_s16_224", "coat_tiny",
    "convit_tiny", "visformer_tiny", "botnet26t_256",
]
# fmt: on
NOT_PYRAMIDS = {"crossvit_9_240": r"strides \(12, 17\)"}
KNOWN = set(timm.list_models())

# One of each kind that is treated differently; all others are built nightly.
BY_DEFAULT = {
    "vit_tiny_patch16_224",  # plain
    "mambaout_femto",  # channels last
    "mobilevitv2_050",  # merges pixels of its coarsest map
    "legacy_xception",  # unpadded
    "crossvit_9_240",  # no pyramid
    "pit_ti_224",  # one size, unpadded
}


def build(name: str, neck: str):
    torch.manual_seed(0)
    return create_model(
        {"name": name, "pretrained": False}, {"name": neck}, "multiclass", num_classes=3
    )


marked = [
    name if name in BY_DEFAULT else pytest.param(name, marks=pytest.mark.nightly)
    for name in [*ANY_SIZE, *ONE_SIZE]
    if name in KNOWN
]


def check_rebuilding(name: str, encoder: Encoder, size: tuple[int, int], **options):
    """Rebuild an encoder from its layout, without running it, and compare the maps."""
    encoder.eval()
    with CountedRuns() as runs:
        again = Encoder.rebuild(name, json.loads(json.dumps(encoder.layout())), **options).eval()
    assert runs.count == 0
    again.load_state_dict(encoder.state_dict())
    x = torch.rand(1, 3, *size)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(encoder(x), again(x), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", marked)
def test_backbones(name):
    if name in NOT_PYRAMIDS:
        with pytest.raises(SegkitError, match=NOT_PYRAMIDS[name]):
            build(name, "fpn")
        return
    model = build(name, "fpn").eval()
    encoder, size = model.encoder, model.encoder.fixed_size
    assert (size is None) == (name in ANY_SIZE)
    with torch.no_grad():
        # smaller images than those of one size are padded
        for height, width in ((50, 70), size or (129, 96)):
            assert model(torch.rand(1, 3, height, width)).shape == (1, 3, height, width)
    if size is not None:
        with pytest.raises(SegkitError, match=rf"built for {size[0]} x {size[1]} pixels"):
            model(torch.rand(1, 3, size[0] + 1, size[1]))
    check_rebuilding(name, encoder, size or (2 * encoder.multiple,) * 2)


def test_a_backbone_of_one_size_is_built_for_the_training_size():
    model = create_model(
        {"name": "test_vit_relpos", "pretrained": False, "img_size": None}, "unet", img_size=90
    )
    assert model.encoder.fixed_size == (96, 96)  # the next multiple of its last stride
    assert model.eval()(torch.rand(1, 3, 90, 90)).shape == (1, 1, 90, 90)
    with pytest.raises(SegkitError, match=r"encoder\.img_size=100, or predict in tiles"):
        model(torch.rand(1, 3, 97, 100))
    # the encoder's own option wins
    own = {"name": "test_vit_relpos", "pretrained": False, "img_size": 64}
    assert create_model(own, "unet", img_size=96).encoder.fixed_size == (64, 64)


def test_old_names_of_timm_are_those_of_today():
    for old, now in {
        "jx_nest_tiny": "nest_tiny_jx",
        "convnext_tiny_in22ft1k": "convnext_tiny.fb_in22k_ft_in1k",
        "convnext_tiny_in22ft1k.fb_in1k": "convnext_tiny.fb_in1k",
        "resnet18": "resnet18",
        "resnet18.a1_in1k": "resnet18.a1_in1k",
    }.items():
        assert find_current_name(old) == now
        assert timm.is_model(now)
    old = Encoder.build("ssl_resnet18", pretrained=False, depth=2)
    assert old.channels == Encoder.build("timm", model="resnet18", pretrained=False).channels[:2]
    again = Encoder.rebuild("ssl_resnet18", old.layout(), depth=2)
    assert again.state_dict().keys() == old.state_dict().keys()


def test_what_no_map_depends_on_is_dropped_but_not_from_old_files():
    """The norm of the classifier of a PiT; files that were written before hold it."""
    encoder = Encoder.build("pit_xs_224", pretrained=False)
    layout = encoder.layout()
    assert layout["backbone"]["dropped"] == ("body.norm",)
    x = torch.rand(1, 3, *encoder.example_size)
    total = torch.stack([m.sum() for m in encoder(x)]).sum()
    assert all(g is not None for g in torch.autograd.grad(total, list(encoder.parameters())))
    before = {**layout, "backbone": {**layout["backbone"], "dropped": ()}}
    for older in (before, {}):  # of this version's predecessor, and of 0.1.0
        whole = Encoder.rebuild("pit_xs_224", older)
        assert whole.layout()["backbone"]["dropped"] == ()
        more = whole.state_dict().keys() - encoder.state_dict().keys()
        assert more == {"backbone.body.norm.weight", "backbone.body.norm.bias"}
        encoder.load_state_dict(
            {key: value for key, value in whole.state_dict().items() if key not in more}
        )
        for one, other in zip(encoder.eval()(x), whole.eval()(x), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("blocks", "depth"), [("several", None), ("last", 3), ("several", 1)])
def test_plain_transformers_become_pyramids(blocks, depth):
    encoder = Encoder.build("test_vit2", pretrained=False, blocks=blocks, depth=depth)
    assert encoder.strides == (4, 8, 16, 32)[:depth]
    maps = encoder(torch.rand(2, 3, 64, 96))
    assert [m.shape[2:] for m in maps] == [(64 // s, 96 // s) for s in encoder.strides]
    torch.stack([m.mean() for m in maps]).sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []
    encoder.freeze("all")  # but the new pyramid still learns
    assert not any(p.requires_grad for p in encoder.backbone.parameters())
    assert all(p.requires_grad for p in encoder.pyramid.parameters())
    assert not any(m.training for m in encoder.train().backbone.modules())


def test_maps_that_share_a_stride_are_one_level():
    # a name may carry the tag of its weights
    encoder = Encoder.build(
        "test_resnet.r160_in1k", pretrained=False, timm_args={"output_stride": 8}
    )
    assert encoder.strides == (2, 4, 8)
    whole = Encoder.build("test_resnet", pretrained=False)
    assert encoder.channels == (*whole.channels[:2], whole.channels[-1])  # of the last of them


def test_timm_arguments_reach_timm():
    encoder = Encoder.build("test_resnet", pretrained=False, timm_args={"drop_path_rate": 0.25})
    assert any(getattr(m, "drop_prob", 0) == 0.25 for m in encoder.modules())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        *(
            ("test_resnet", {"timm_args": {key: value}}, f"timm_args: '{key}' .*{instead}")
            for key, value, instead in (
                ("in_chans", 5, "in_channels"),
                ("features_only", False, "an encoder always gives its maps"),
                ("out_indices", [0, 1], r"encoder\.depth"),
                ("img_size", 64, r"encoder\.img_size"),
                ("checkpoint_path", "file.pth", r"encoder\.pretrained=PATH"),
                ("pretrained", True, r"encoder\.pretrained"),
            )
        ),
        (
            "test_resnet",
            {"timm_args": {"colour": 1}},
            r"timm_args=\{'colour': 1\} cannot be an encoder.*colour",
        ),
        ("test_resnet", {"depth": 6}, "depth is 6, but 'test_resnet' has 5 levels"),
        ("test_resnet.nope", {}, "no weights 'nope' of the model 'test_resnet'.*r160"),
        ("resnet18", {"model": "resnet50"}, "leave out the option model=resnet50"),
        ("resnt34", {}, r"'resnt34' is not known\. Did you mean .*'resnet34'"),
        ("timm", {"model": "resnt34"}, r"no model 'resnt34'\. Did you mean .*'resnet34'"),
    ],
)
def test_wrong_names_and_options_are_errors(name, options, message):
    with pytest.raises(SegkitError, match=message):
        Encoder.build(name, pretrained=False, **options)


def test_every_timm_model_is_an_encoder_name():
    names = Encoder.names()
    assert set(names) >= KNOWN
    assert len(names) == len(set(names))
    assert Encoder.names("resnet1*")[:3] == ["resnet10t", "resnet14t", "resnet18"]


class CountedRuns:
    """Counts the calls of all modules of torch while it is entered."""

    def __enter__(self):
        self.count = 0
        self._hook = nn.modules.module.register_module_forward_pre_hook(self._note)
        return self

    def __exit__(self, *_):
        self._hook.remove()

    def _note(self, *_):
        self.count += 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_resnet", {"depth": 2, "freeze": 1}),
        ("test_vit2", {"depth": 3, "blocks": "last"}),
        ("test_vit_relpos", {"img_size": 90}),
        ("hrnet_w18_small", {"depth": 2}),  # it computes all its stages: some are dropped
        ("unet", {"width": 4}),
    ],
)
def test_an_encoder_is_rebuilt_from_its_layout_without_running_it(name, options):
    encoder = Encoder.build(name, pretrained=False, **options)
    check_rebuilding(name, encoder, (96, 96), **options)
    with CountedRuns() as runs:  # a card of version 0.1.0 has no layout
        assert Encoder.rebuild(name, {}, **options).strides == encoder.strides
    assert (runs.count > 0) == (name != "unet")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": [1, 2, 3, 4, 5]}, r"channels=\(1, 2, 3, 4, 5\), but with its options it has"),
        ({"strides": [1, 2, 4, 8, 16]}, r"strides=\(1, 2, 4, 8, 16\), but with its options it has"),
        ({"backbone": {"multiple": 33}}, "33 pixels are no multiple of the stride 32"),
        ({"backbone": {"multiple": "many"}}, "does not fit the timm model 'test_resnet'"),
        ({"backbone": {"arguments": {"checkpoint_path": "x"}}}, "arguments=.*checkpoint_path"),
        ({"backbone": {"arguments": {"out_indices": [9]}}}, "does not fit the timm model"),
        ({"backbone": {"dropped": ["nothing"]}}, "nothing"),
        ({"fixed_size": [64, 64]}, "fixed_size"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(changes, message):
    layout = Encoder.build("test_resnet", pretrained=False).layout()
    changed = {**layout, **changes, "backbone": layout["backbone"] | changes.get("backbone", {})}
    with pytest.raises(SegkitError, match=message):
        Encoder.rebuild("test_resnet", changed)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_the_same_seed_gives_the_same_network(name):
    def weights() -> list[torch.Tensor]:
        torch.manual_seed(3)
        return list(create_model({"name": name, "pretrained": False}).parameters())

    assert all(torch.equal(a, b) for a, b in zip(weights(), weights(), strict=True))


def test_residual_blocks_take_part_from_the_first_step_unless_asked_not_to():
    def scales(**options):
        encoder = Encoder.build("resnet18", pretrained=False, **options)
        stages = [encoder.backbone[f"layer{number}"] for number in (1, 2, 3, 4)]
        return [float(stage[0].bn2.weight[0].detach()) for stage in stages]

    assert scales() == pytest.approx([8**-0.5] * 4)  # of 8 blocks
    assert scales(timm_args={"zero_init_last": False}) == [1.0] * 4
    assert scales(timm_args={"zero_init_last": True}) == [0.0] * 4


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.nightly),
        "vit_tiny_patch16_224",
    ],
)
def test_networks_that_were_tried_are_gone_at_once(name):
    """Python's collector does not know their size: gigabytes would wait for it."""

    def layers() -> int:
        return sum(issubclass(type(x), torch.nn.Linear) for x in gc.get_objects())

    gc.collect()
    before = layers()
    gc.disable()
    try:
        build(name, "unet")
        assert layers() == before
    finally:
        gc.enable()


def test_a_plain_transformer_without_a_pyramid():
    encoder = Encoder.build("test_vit2", pretrained=False, blocks="plain").eval()
    assert (encoder.channels, encoder.strides, encoder.multiple) == ((64,), (16,), 16)
    x = torch.rand(1, 3, 48, 80)
    with torch.no_grad():
        (features,) = encoder(x)
        assert torch.equal(features, encoder.backbone(x)[-1])
    assert features.shape == (1, 64, 3, 5)
    assert not list(set(encoder.parameters()) - set(encoder.backbone_parameters()))
    check_rebuilding("test_vit2", encoder, (48, 80), blocks="plain")


@pytest.mark.parametrize(
    ("name", "stride", "strides"),
    [
        ("test_resnet", 8, (2, 4, 8)),
        ("test_resnet", 16, (2, 4, 8, 16)),
        ("test_resnet", 32, (2, 4, 8, 16, 32)),
        ("test_convnext", 8, (4, 8)),
        ("test_efficientnet", 16, (2, 4, 8, 16)),
    ],
)
def test_dilated_backbones_give_the_last_map_of_each_stride(name, stride, strides):
    plain = Encoder.build(name, pretrained=False)
    encoder = Encoder.build(name, pretrained=False, output_stride=stride)
    assert (encoder.strides, encoder.multiple) == (strides, stride)
    assert encoder.channels[-1] == plain.channels[-1]
    assert [p.shape for p in encoder.parameters()] == [p.shape for p in plain.parameters()]
    check_rebuilding(name, encoder, (3 * stride, 5 * stride), output_stride=stride)


@pytest.mark.parametrize("name", ["test_vit", "vgg11", "densenet121"])
def test_backbones_that_cannot_be_dilated_say_so(name):
    with pytest.raises(SegkitError, match=f"output_stride is 8, but timm cannot dilate '{name}'"):
        Encoder.build(name, pretrained=False, output_stride=8)
