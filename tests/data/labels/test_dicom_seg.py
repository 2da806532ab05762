"""DICOM segmentations, as the standard lays them out, written by pydicom."""

from __future__ import annotations

import numpy as np
import pytest

from segkit.core.errors import SegkitError
from segkit.data.sources.folder import FolderSource
from segkit.images.reading import count_pages, read_image

pydicom = pytest.importorskip("pydicom", reason="the extra medical is not installed")

CT, SEG, LABELMAP = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "66.4", "66.7"))
SLICES, SIZE = 5, (9, 13)
rng = np.random.default_rng(0)
LIVER = rng.random((SLICES, *SIZE)) < 0.4
LIVER[0] = False
TUMOUR = LIVER & (rng.random((SLICES, *SIZE)) < 0.5)
WANTED = np.where(TUMOUR, 2, LIVER)


def item(**attributes):
    dataset = pydicom.Dataset()
    for key, value in attributes.items():
        setattr(dataset, key, value)
    return dataset


def save(path, kind, pixels, bits, **attributes):
    """Write frames (N, H, W) of a kind of object; of one bit they are packed."""
    dataset = item(SOPClassUID=kind, SOPInstanceUID=pydicom.uid.generate_uid())
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = kind
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.Rows, dataset.Columns = pixels.shape[1:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    if len(pixels) > 1:
        dataset.NumberOfFrames = len(pixels)
    for key, value in attributes.items():
        setattr(dataset, key, value)
    if bits == 1:
        data = np.packbits(pixels.ravel(), bitorder="little").tobytes()
    else:
        data = pixels.astype(f"<u{bits // 8}").tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return str(dataset.SOPInstanceUID)


def place(number, offset=0.0):
    return [10.0 + offset, 20.0, 3.0 * number]


def put_series(folder, uid="1.2.3", frame="1.2.9"):
    """A series whose files are in another order than its slices; returns their UIDs in order."""
    found = {}
    for number in (3, 0, 4, 1, 2):
        found[number] = save(
            folder / f"{len(found)}.dcm",
            CT,
            np.full((1, *SIZE), number),
            16,
            SeriesInstanceUID=uid,
            FrameOfReferenceUID=frame,
            ImagePositionPatient=place(number),
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[0.5, 0.5],
        )
    return [found[number] for number in range(SLICES)]


def group(number, segment=None, uid=None, offset=0.0, frame=None):
    """What is stated of a frame."""
    found = item(PlanePositionSequence=[item(ImagePositionPatient=place(number, offset))])
    if segment is not None:
        found.SegmentIdentificationSequence = [item(ReferencedSegmentNumber=segment)]
    if uid is not None:
        source = item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID=uid)
        if frame is not None:
            source.ReferencedFrameNumber = frame
        found.DerivationImageSequence = [item(SourceImageSequence=[source])]
    return found


def put_segments(
    path, uids=None, kind="BINARY", labels=("liver", "tumour"), offset=0.0, frames_of=None, **more
):
    """Write LIVER and TUMOUR in an order of their own, without frames that are empty."""
    frames = [
        (segment, number, mask[number])
        for segment, mask in ((2, TUMOUR), (1, LIVER))
        for number in reversed(range(SLICES))
        if mask[number].any()
    ]
    pixels = np.array([mask for _, _, mask in frames])
    if kind == "LABELMAP":
        frames = [(None, number, WANTED[number]) for number in (4, 2, 3, 1)]
        pixels = np.array([mask for _, _, mask in frames])
    if kind == "FRACTIONAL":
        pixels = np.where(pixels, 128, 127)
    groups = [group(n, s, uids and uids[n], offset) for s, n, _ in frames]
    if frames_of is not None:
        groups = [group(n, s, frames_of, offset, n + 1) for s, n, _ in frames]
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.5], SliceThickness=3)],
    )
    attributes = {
        "SegmentationType": kind,
        "SegmentSequence": [
            item(SegmentNumber=number, SegmentLabel=label)
            for number, label in enumerate(labels, start=1)
        ],
        "PerFrameFunctionalGroupsSequence": groups,
        "SharedFunctionalGroupsSequence": [shared],
        "FrameOfReferenceUID": "1.2.9",
        "MaximumFractionalValue": 255,
        **more,
    }
    bits = {"BINARY": 1, "FRACTIONAL": 8, "LABELMAP": 16}[kind]
    save(path, LABELMAP if kind == "LABELMAP" else SEG, pixels, bits, **attributes)


def read(root, mode="multiclass", **options):
    source = FolderSource(mode, root, **options)
    assert source.problems() == []
    samples = [sample for part in source.splits().values() for sample in part]
    return source, sorted(samples, key=lambda sample: sample.name)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("is_named", [True, False])
def test_segments_are_the_classes_of_all_slices(tmp_path, kind, is_named):
    uids = put_series(tmp_path / "images/p1")
    put_segments(tmp_path / "masks/p1.dcm", uids if is_named else None, kind)
    source, samples = read(tmp_path)
    assert source.class_names == ("background", "liver", "tumour")
    assert [sample.name for sample in samples] == [f"images/p1#{n:04d}" for n in range(SLICES)]
    for number, sample in enumerate(samples):
        assert (source.read_image(sample) == number).all()
        np.testing.assert_array_equal(source.read_mask(sample), WANTED[number])
    assert any("from a half on" in note for note in source.notes()) == (kind == "FRACTIONAL")


def test_segments_that_overlap_are_layers(tmp_path):
    put_segments(tmp_path / "seg.dcm", put_series(tmp_path / "p1"), SegmentsOverlap="YES")
    source, samples = read(tmp_path, "multilabel")
    layers = np.array([source.read_mask(sample) for sample in samples])
    np.testing.assert_array_equal(layers, np.stack([LIVER, TUMOUR], axis=3))
    assert any("segments overlap: head=multilabel" in note for note in source.notes())


def test_segments_beside_the_slices_and_of_several_files(tmp_path):
    for name in ("p1", "p2"):
        uids = put_series(tmp_path / "train" / name, f"1.2.3.{name[1]}")
        put_segments(tmp_path / "train" / name / "seg", uids)
        assert count_pages(tmp_path / "train" / name) == SLICES
    put_segments(tmp_path / "more.dcm", uids, labels=("kidney", "cyst"))
    put_series(tmp_path / "val/p3", "1.2.4")
    source, samples = read(tmp_path)
    assert len(samples) == 2 * SLICES
    assert source.class_names == ("background", "kidney", "liver", "cyst", "tumour")
    assert "DICOM images without segments are not used (1): val/p3" in source.notes()
    assert any("several files are drawn together, as on train/p2" in n for n in source.notes())


@pytest.mark.parametrize("named", ["nothing", "object", "frame"])
def test_frames_of_images_with_several(tmp_path, named):
    groups = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=place(number))],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
            PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.5])],
        )
        for number in range(SLICES)
    ]
    pixels = np.repeat(np.arange(SLICES), SIZE[0] * SIZE[1]).reshape(SLICES, *SIZE)
    uids = {}
    for name in ("a", "b"):
        uids[name] = save(
            tmp_path / f"images/{name}.dcm",
            CT,
            pixels,
            16,
            PerFrameFunctionalGroupsSequence=groups,
            FrameOfReferenceUID="1.2.8" if name == "b" and named == "nothing" else "1.2.9",
            SeriesInstanceUID=f"1.2.3.{ord(name)}",
        )
    put_segments(
        tmp_path / "masks/a.dcm",
        [uids["a"]] * SLICES if named == "object" else None,
        frames_of=uids["a"] if named == "frame" else None,
    )
    source, samples = read(tmp_path)
    assert [sample.name for sample in samples] == [f"images/a.dcm#{n:04d}" for n in range(SLICES)]
    for number, sample in enumerate(samples):
        np.testing.assert_array_equal(source.read_mask(sample), WANTED[number])


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"offset": 0.4}, r"frame 1 \(9 x 13\) lies on no slice of p1 \(9 x 13\): write the"),
        ({"labels": ("liver",)}, "frame 1 has the segment 2, which the file does not describe"),
        ({"FrameOfReferenceUID": "1.2.7"}, "none of the DICOM images below data.root is the one"),
        ({"Columns": 12}, r"lies on no slice|cannot be read"),
        ({"PerFrameFunctionalGroupsSequence": []}, "a frame names no segment"),
    ],
)
def test_segments_that_fit_nothing_are_refused(tmp_path, more, problem):
    put_series(tmp_path / "p1")
    put_segments(tmp_path / "seg.dcm", **more)
    with pytest.raises(SegkitError, match=rf"seg\.dcm: .*{problem}"):
        raise SegkitError("; ".join(FolderSource("multiclass", tmp_path).problems()))


def test_segments_that_lie_on_two_series_need_a_name(tmp_path):
    uids = put_series(tmp_path / "p1")
    put_series(tmp_path / "p2", "1.2.4")
    put_segments(tmp_path / "seg.dcm")
    with pytest.raises(SegkitError, match=r"lies on p1 and on p2, and names neither"):
        raise SegkitError("; ".join(FolderSource("multiclass", tmp_path).problems()))
    put_segments(tmp_path / "seg.dcm", uids)
    assert {sample.name[:2] for sample in read(tmp_path)[1]} == {"p1"}


def test_segments_as_an_image_are_refused(tmp_path):
    put_segments(tmp_path / "seg.dcm")
    with pytest.raises(SegkitError, match=r"is a DICOM segmentation: data\.labels=dicom_seg reads"):
        read_image(tmp_path / "seg.dcm")
