from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image as Picture

import segkit
from segkit.benchmark.networks import make_bare_card
from segkit.core.errors import SegkitError
from segkit.data.sources.cells import draw
from segkit.images.writing import write_image
from segkit.inference.predictor import OtherTilesWarning, Predictor
from segkit.inference.runtimes.torch_network import TorchNetwork
from segkit.inference.tiles.tiling import Windows
from segkit.models.segmenter import create_model


@pytest.fixture(scope="module")
def predictor(binary_run):
    return segkit.load(binary_run.checkpoint, device="cpu")


def test_every_size_and_every_form_of_an_image(predictor, tmp_path):
    for height, width in [(1, 1), (7, 5), (64, 64), (65, 130)]:
        image = draw(1, (max(16, height), max(16, width))).image[:height, :width]
        result = predictor(image, probabilities=True)
        assert result.labels.shape == (height, width)
        assert result.labels.dtype == np.uint8
        assert result.probabilities.shape == (1, height, width)
        assert result.probabilities.dtype == np.float32
        assert result.instances is None
    image = draw(2, (40, 30)).image  # (H, W, 1)
    write_image(tmp_path / "a.png", image)
    as_array = predictor(image, probabilities=True).probabilities
    for same in (
        image[..., 0],
        np.repeat(image, 3, axis=2),
        image.astype(np.uint16) * 257,
        image.astype(np.float64) / 255,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
    ):
        np.testing.assert_allclose(
            predictor(same, probabilities=True).probabilities, as_array, atol=2e-3
        )


def test_tensors_and_pictures_are_the_same_image(predictor, tmp_path):
    image = draw(2, (40, 30)).image  # (H, W, 1)
    tensor = torch.from_numpy(image).permute(2, 0, 1)  # (1, H, W)
    write_image(tmp_path / "a.png", image)
    picture = Picture.fromarray(image[..., 0])
    wanted = predictor(image, probabilities=True).probabilities
    same = [tensor, tensor[0], picture, Picture.open(tmp_path / "a.png"), picture.convert("RGB")]
    same += [picture.convert("P"), picture.convert("RGBA"), tensor.repeat(3, 1, 1)]
    same += [(tensor / 255).requires_grad_(), (tensor / 255).double()]  # which share a batch
    for number, found in enumerate(predictor(same, probabilities=True)):
        np.testing.assert_allclose(found.probabilities, wanted, atol=1e-5, err_msg=str(number))
    rough = predictor((tensor / 255).bfloat16(), probabilities=True)
    np.testing.assert_allclose(rough.probabilities, wanted, atol=0.05)


def test_a_picture_is_read_as_its_file(multiclass_run, tmp_path):
    """Turned by its EXIF data, palettes as colours, 1 bit as black and white, nothing as 255."""
    predictor = segkit.load(multiclass_run.checkpoint, device="cpu")
    drawn = draw(3, (40, 30), 3).image
    colours = Picture.fromarray(drawn)
    exif = Picture.Exif()
    exif[0x0112] = 6
    hidden = colours.convert("RGBA")
    hidden.putalpha(Picture.fromarray((np.arange(1200).reshape(40, 30) > 300).astype("u1") * 255))
    colours.save(tmp_path / "turned.png", exif=exif)
    colours.quantize(64).save(tmp_path / "palette.png")
    colours.convert("1").save(tmp_path / "bits.png")
    hidden.save(tmp_path / "hidden.png")
    Picture.fromarray(drawn[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    files = sorted(tmp_path.glob("*.png"))
    pictures = predictor([Picture.open(path) for path in files], probabilities=True)
    for path, picture, file in zip(
        files, pictures, predictor(files, probabilities=True), strict=True
    ):
        np.testing.assert_array_equal(picture.labels, file.labels, err_msg=path.name)
        np.testing.assert_array_equal(picture.probabilities, file.probabilities, path.name)
    sizes = {path.name: one.labels.shape for path, one in zip(files, pictures, strict=True)}
    assert sizes["turned.png"] == (30, 40)
    assert (pictures[files.index(tmp_path / "hidden.png")].labels == 255).sum() == 301


@pytest.mark.filterwarnings("ignore:the image is boolean")  # tested elsewhere
def test_booleans_are_the_numbers_0_and_1(predictor):
    image = np.random.default_rng(0).random((40, 30)) > 0.5
    wanted = predictor(image.astype(np.uint8), probabilities=True).probabilities
    for same in (image, image[..., None], torch.from_numpy(image), torch.from_numpy(image)[None]):
        np.testing.assert_array_equal(predictor(same, probabilities=True).probabilities, wanted)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((8, 8, 5), np.uint8), "an image with 5 channels cannot be converted to 1"),
        (np.full((8, 8), 200, np.float32), "must range from 0 to 1, but this one reaches 200"),
        (np.zeros((8, 8), np.int64), "int64"),
        ("no/such/file.png", "file.png"),
        ([[1, 2]], "an image is a path, a numpy array"),
        (np.zeros(4), r"\(H, W\) or \(H, W, C\), not an array of the shape \(4,\)"),
        (np.zeros((0, 4)), r"no pixels: its shape is \(0, 4\)"),
        (torch.zeros(1, 0, 4), r"no pixels: its shape is \(1, 0, 4\)"),
        (torch.zeros(2, 1, 8, 8), r"\(C, H, W\), not a tensor of the shape .* list\(batch\)"),
        (torch.zeros(8, 9, 1), r"seems to be \(H, W, C\): give tensor\.permute\(2, 0, 1\)"),
        (torch.zeros(3, 9, 1), r"can be \(C, H, W\) or \(H, W, C\).* as a numpy array"),
        (torch.zeros(5, 9, 9), "an image with 5 channels cannot be converted to 1"),
        (torch.zeros(9, 9, dtype=torch.complex64), r"complex64.* is not an image"),
        (torch.zeros(9, 9).to_sparse(), r"sparse_coo is not an image"),
        (Picture.new("L", (0, 5)), "no pixels: it is 0 x 5"),
    ],
)
def test_images_that_do_not_fit_are_errors(predictor, given, message):
    with pytest.raises(SegkitError, match=message):
        predictor(given)


@pytest.fixture(scope="module")
def images():
    sizes = [(64, 64), (150, 90), (7, 5), (64, 50)]
    return [draw(i, (150, 150)).image[:h, :w] for i, (h, w) in enumerate(sizes)]


@pytest.mark.parametrize("tta", ["none", "d4"])
def test_batch_order_and_company_do_not_matter(binary_run, images, tta):
    alone = segkit.load(binary_run.checkpoint, device="cpu", tile=64, batch_size=1, tta=tta)
    expected = [alone(image, probabilities=True).probabilities for image in images]
    pooled = segkit.load(binary_run.checkpoint, device="cpu", tile=64, batch_size=7, tta=tta)
    for found, one in zip(pooled(images[::-1], probabilities=True), expected[::-1], strict=True):
        np.testing.assert_allclose(found.probabilities, one, atol=1e-5)


def test_lists_may_hold_paths_and_an_error_stops_them(predictor, images, tmp_path):
    write_image(tmp_path / "a.png", images[0])
    found = predictor([str(tmp_path / "a.png"), images[1]])
    np.testing.assert_array_equal(found[0].labels, predictor(images[0]).labels)
    assert predictor([]) == []
    tifffile.imwrite(tmp_path / "five.tif", np.zeros((5, 9, 8), np.uint8), planarconfig="separate")
    for name, message in (("none.png", r"none\.png"), ("five.tif", r"five\.tif: an image with 5")):
        with pytest.raises(SegkitError, match=message):
            predictor([images[0], tmp_path / name])


def test_an_image_is_let_go_of_with_its_prediction(predictor):
    """At once, and not when the garbage collector comes: images are large and objects few."""
    gc.disable()
    try:
        alive = []
        for number, result in enumerate(
            predictor.stream((draw(i, (64, 64)).image for i in range(9)), probabilities=True)
        ):
            alive.append(weakref.ref(result.probabilities))
            del result
            assert sum(one() is not None for one in alive) <= 1, number
    finally:
        gc.enable()


def test_a_tile_that_a_network_cannot_take_is_an_error(binary_run, monkeypatch):
    fixed = Windows(64, 32, 64, fixed=(64, 64))
    monkeypatch.setattr(
        "segkit.inference.runtimes.torch_network.find_windows", lambda model, side: fixed
    )
    with pytest.raises(SegkitError, match=r"tile=96 cannot be used.* only tiles of 64 x 64 pixels"):
        segkit.load(binary_run.checkpoint, device="cpu", tile=96)
    assert segkit.load(binary_run.checkpoint, device="cpu", tile=64).windows == fixed


@pytest.mark.parametrize("tile", [None, 32])
def test_a_mirrored_image_gets_the_mirrored_prediction(binary_run, tile):
    image = draw(2, (59, 83)).image
    predictor = segkit.load(binary_run.checkpoint, device="cpu", tta="d4", tile=tile)
    wanted = predictor(image, probabilities=True).probabilities
    views = [image[:, ::-1], image[::-1], image[::-1, ::-1], image.swapaxes(0, 1)]
    mirrored = [wanted[:, :, ::-1], wanted[:, ::-1], wanted[:, ::-1, ::-1], wanted.swapaxes(1, 2)]
    for one, found in zip(mirrored, predictor(views, probabilities=True), strict=True):
        np.testing.assert_allclose(found.probabilities, one, atol=1e-5)
    plain = segkit.load(binary_run.checkpoint, device="cpu", tile=tile)
    found = plain(views[0], probabilities=True).probabilities
    assert np.abs(found - mirrored[0]).max() > 1e-3


def test_tiles_that_are_not_as_they_were_asked_for_are_reported(binary_run):
    """This network takes 8, 12, 16 ... pixels."""
    with pytest.warns(OtherTilesWarning, match="tile=3: tiles have 8 pixels, the fewest that"):
        assert segkit.load(binary_run.checkpoint, device="cpu", tile=3).windows.largest == 8
    with pytest.warns(OtherTilesWarning, match=r"of 8 pixels overlap by 0\.5 .* multiples of 4 "):
        segkit.load(binary_run.checkpoint, device="cpu", tile=8, overlap=0.9)
    assert segkit.load(binary_run.checkpoint, device="cpu", tile=99).windows.largest == 96
    segkit.load(binary_run.checkpoint, device="cpu", overlap=0.9)


def test_a_stream_has_the_error_in_the_place_of_the_image(predictor, images):
    vast = np.broadcast_to(np.uint8(0), (2**24, 2**24))
    wrong = np.zeros((8, 8, 5), np.uint8)
    found = list(predictor.try_stream([images[0], vast, wrong, images[1], wrong[:0], images[2]]))
    kinds = ["error" if isinstance(one, SegkitError) else one.labels.shape for one in found]
    assert kinds == [(64, 64), "error", "error", (150, 90), "error", (7, 5)]
    assert "does not fit into memory" in str(found[1])


def test_windows_of_an_image_equal_it_in_memory(multiclass_run, multilabel_run):
    for run, channels in ((multiclass_run, 3), (multilabel_run, 1)):
        image = draw(7, (190, 333), channels).image
        predictor = segkit.load(run.checkpoint, device="cpu", tile=64)
        whole = predictor(image, probabilities=True)
        labels, maps = np.full_like(whole.labels, 99), np.full_like(whole.probabilities, np.nan)

        class Windowed:
            shape = image.shape

            def read(self, top, left, height, width, image=image):
                return image[top : top + height, left : left + width]

        def writes_to(array):
            def write(top, left, block):
                height, width = block.shape[-2:]
                array[..., top : top + height, left : left + width] = block

            return write

        predictor.predict_windows(Windowed(), writes_to(labels), writes_to(maps))
        np.testing.assert_array_equal(labels, whole.labels)
        np.testing.assert_allclose(maps, whole.probabilities, atol=1e-6)


def test_context_is_seen_and_not_decided(binary_run):
    image = draw(9, (128, 128)).image
    plain = segkit.load(binary_run.checkpoint, device="cpu", tile=64, overlap=0)
    wide = segkit.load(binary_run.checkpoint, device="cpu", tile=64, overlap=0, context=50)
    whole = segkit.load(binary_run.checkpoint, device="cpu", tile=256, context=64)
    whole = whole(image, probabilities=True)
    assert wide.windows.context == 52  # on the network's grid
    errors = [
        np.abs(p(image, probabilities=True).probabilities - whole.probabilities).max()
        for p in (plain, wide)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_channels_in_several_files(binary_run, tmp_path):
    """Grey is not repeated where it is one of several files, and models must agree on them."""
    paths = []
    for names in (["0000", "0001"], ["0001", "0000"]):
        stored = torch.load(binary_run.checkpoint, weights_only=True)
        stored["segkit"]["config"]["data"]["channel_files"] = names
        paths.append(tmp_path / f"{names[0]}.ckpt")
        torch.save(stored, paths[-1])
    predictor = segkit.load(paths[0], device="cpu")
    assert predictor.card.channel_files == ("0000", "0001")
    with pytest.raises(SegkitError, match=r"in several files \(0000, 0001\), this image has 3"):
        predictor(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(SegkitError, match="channels of its images were 0001, 0000, those of the"):
        segkit.load(paths, device="cpu")


def test_an_ensemble_is_the_mean_of_its_members(binary_run, border_core_run, tmp_path):
    image = draw(5, (60, 70)).image
    stored = torch.load(binary_run.checkpoint, weights_only=True)
    for value in stored["state_dict"].values():
        if value.is_floating_point():
            value.mul_(0.9)
    torch.save(stored, tmp_path / "other.ckpt")
    paths = [binary_run.checkpoint, tmp_path / "other.ckpt"]
    one, two = (
        segkit.load(path, device="cpu")(image, probabilities=True).probabilities for path in paths
    )
    found = segkit.load(paths, device="cpu")(image, probabilities=True).probabilities
    np.testing.assert_allclose(found, (one + two) / 2, atol=1e-6)
    assert np.abs(one - two).max() > 1e-3
    with pytest.raises(SegkitError, match="number 2 of the list cannot be averaged"):
        segkit.load([binary_run.checkpoint, border_core_run.checkpoint])
    stored["segkit"]["threshold"] = 0.4
    torch.save(stored, tmp_path / "other.ckpt")
    with pytest.raises(SegkitError, match=r"thresholds of their own.*give threshold=VALUE"):
        segkit.load(paths)
    assert segkit.load(paths, threshold=0.4)(image).labels.shape == (60, 70)
    with pytest.raises(SegkitError, match="the list is empty"):
        segkit.load([])


def test_an_unpadded_network_is_exact_in_tiles():
    unet = {"name": "unet", "width": 4, "depth": 3, "padding": "valid"}
    model = create_model(unet, "unet", in_channels=1).eval()
    card = make_bare_card(model, 36, "uint8", 255.0)
    networks = [TorchNetwork(model, card, "cpu", tile, batch_size=2) for tile in (36, 400)]
    image = draw(6, (90, 131)).image
    small, large = (Predictor(network)(image, probabilities=True) for network in networks)
    np.testing.assert_allclose(small.probabilities, large.probabilities, atol=1e-5)
    with pytest.raises(SegkitError, match="context=10 cannot be used"):
        Predictor(networks, context=10)


def test_probabilities_are_there_when_asked_for(binary_run):
    result = segkit.load(binary_run.checkpoint, device="cpu")(draw(1, (32, 32)).image)
    assert result.maps is None
    with pytest.raises(SegkitError, match=r"ask for them by predictor\(image, probabilities=True"):
        result.probabilities  # noqa: B018 - a property that raises


def test_labels_are_decided_by_the_head(multiclass_run, multilabel_run):
    image = draw(3, (32, 48), 3).image
    result = segkit.load(multiclass_run.checkpoint, device="cpu")(image, probabilities=True)
    np.testing.assert_array_equal(result.labels, result.probabilities.argmax(0))
    np.testing.assert_allclose(result.probabilities.sum(0), 1, atol=1e-5)
    result = segkit.load(multilabel_run.checkpoint, device="cpu")(
        image[..., :1], probabilities=True
    )
    assert result.labels.shape == (3, 32, 48)
    np.testing.assert_array_equal(result.labels, result.probabilities > 0.5)


def test_augmented_prediction_is_equivariant(binary_run):
    """The mean over all eight views of a turned image is the turned mean."""
    predictor = segkit.load(binary_run.checkpoint, device="cpu", tta="d4")
    image = draw(4, (64, 64)).image
    straight = predictor(image, probabilities=True).probabilities[0]
    np.testing.assert_allclose(
        predictor(np.rot90(image), probabilities=True).probabilities[0],
        np.rot90(straight),
        atol=1e-5,
    )
    np.testing.assert_allclose(
        predictor(image[:, ::-1], probabilities=True).probabilities[0], straight[:, ::-1], atol=1e-5
    )
    flipped = segkit.load(binary_run.checkpoint, device="cpu", tta="flips")
    once = flipped(image, probabilities=True).probabilities[0]
    np.testing.assert_allclose(
        flipped(image[::-1], probabilities=True).probabilities[0], once[::-1], atol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tta": "d8"}, "tta='d8': Input should be 'none', 'flips' or 'd4'"),
        ({"instances": "magic"}, "instances='magic'"),
        ({"instances": "border_core"}, "head=binary: use components or watershed"),
        ({"overlap": -1.0}, "overlap="),
        ({"overlap": 2}, "overlap="),
        ({"tile": 0}, "tile="),
        ({"tile": "a"}, "tile="),
        ({"threshold": "high"}, "threshold="),
        ({"threshold": 2}, "threshold="),
        ({"min_size": -1}, "min_size="),
        ({"device": "tpu9"}, "device 'tpu9'"),
    ],
)
def test_options_that_do_not_exist_are_errors(binary_run, options, message):
    with pytest.raises(SegkitError, match=message):
        segkit.load(binary_run.checkpoint, **options)


def test_objects_that_a_model_cannot_tell_apart_and_wrong_paths_are_errors(multilabel_run):
    with pytest.raises(SegkitError, match="multilabel"):
        segkit.load(multilabel_run.checkpoint, instances="components")
    for wrong in (None, 3, [None]):
        with pytest.raises(SegkitError, match="give a path, or a list of paths"):
            segkit.load(wrong)


@pytest.mark.parametrize("option", [{"min_size": 9}, {"waist": 0.5}, {"fill_holes": True}])
def test_options_of_objects_that_would_do_nothing_are_named(option, binary_run, multilabel_run):
    (name,) = option
    remedy = "instances=components or instances=watershed"
    with pytest.raises(SegkitError, match=rf"{name}=.*instances=null.*{remedy}"):
        segkit.load(binary_run.checkpoint, device="cpu", **option)
    with pytest.raises(SegkitError, match=rf"instances=null\). Leave {name} out"):
        segkit.load(multilabel_run.checkpoint, device="cpu", **option)
    if name == "waist":
        with pytest.raises(SegkitError, match="has no effect with instances=components"):
            segkit.load(binary_run.checkpoint, device="cpu", instances="components", **option)
    else:
        segkit.load(binary_run.checkpoint, device="cpu", instances="components", **option)
    plain = {"min_size": 0, "waist": 0.8, "fill_holes": False}
    assert segkit.load(binary_run.checkpoint, device="cpu", **plain).instances is None


def test_a_file_of_several_pages_asks_for_the_page(binary_run, tmp_path):
    pages = np.stack([draw(i, (32, 40)).image[..., 0] for i in range(3)])
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    predictor = segkit.load(binary_run.checkpoint, device="cpu")
    with pytest.raises(SegkitError, match=r"has 3 pages; choose one of 0 to 2"):
        predictor(tmp_path / "stack.tif")
    last = predictor(tmp_path / "stack.tif", page=2, probabilities=True)
    np.testing.assert_array_equal(
        last.probabilities, predictor(pages[2], probabilities=True).probabilities
    )
    with pytest.raises(SegkitError, match="there is no page 3"):
        predictor(tmp_path / "stack.tif", page=3)


def test_loading_asks_no_hub(binary_run, monkeypatch, tmp_path):
    """Even where the training had pretrained weights."""
    stored = torch.load(binary_run.checkpoint, weights_only=True)
    stored["segkit"]["encoder"]["pretrained"] = True
    torch.save(stored, tmp_path / "a.ckpt")

    def fail(*args, **kwargs):
        raise AssertionError("asked for weights")

    monkeypatch.setattr("segkit.models.encoders.timm.find_weights", fail)
    segkit.load(tmp_path / "a.ckpt", device="cpu")
