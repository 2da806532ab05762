"""DICOM files, written by pydicom."""

from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra medical is not installed")

H, W = 16, 12
CT = "1.2.840.10008.5.1.4.1.1.2"
LITTLE = pydicom.uid.ExplicitVRLittleEndian
JPEG = "1.2.840.10008.1.2.4."
AXIAL = [1, 0, 0, 0, 1, 0]
TILTED = [1, 0, 0, 0, 0.96, 0.28]


def make(pixels: np.ndarray, **attributes):
    """A data set of one frame (H, W), several (N, H, W) or of a colour image (H, W, 3)."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = attributes.get("SOPClassUID", CT)
    dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset.file_meta.TransferSyntaxUID = LITTLE
    dataset.SOPClassUID, dataset.SOPInstanceUID = CT, "1.2.3"
    dataset.SeriesInstanceUID, dataset.SeriesDescription = "1.2.3.4", "chest"
    is_colour = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.ndim == 3 and not is_colour:
        dataset.NumberOfFrames = len(pixels)
        dataset.Rows, dataset.Columns = pixels.shape[1:]
    else:
        dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if is_colour else 1
    dataset.PhotometricInterpretation = "RGB" if is_colour else "MONOCHROME2"
    if is_colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    for key, value in attributes.items():
        setattr(dataset, key, value)
    dataset.HighBit = dataset.BitsStored - 1
    data = pixels.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"
    return dataset


def save(path: Path, dataset) -> None:
    path.parent.mkdir(exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def pack(dataset, syntax: str, frames: list[bytes]) -> None:
    dataset.PixelData = pydicom.encaps.encapsulate(frames)
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)


def series(folder: Path, volume: np.ndarray, orientation=AXIAL, step=None, **attributes) -> None:
    """A file for each slice, under names in another order than the slices."""
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    step = np.cross(across, down) * 2.5 if step is None else np.array(step)
    for number, pixels in enumerate(volume):
        position = [round(float(value), 6) for value in np.array([-30.0, 11, 7]) + number * step]
        dataset = make(
            np.ascontiguousarray(pixels),
            ImagePositionPatient=position,
            ImageOrientationPatient=list(orientation),
            PixelSpacing=[0.5, 0.75],
            InstanceNumber=100 - number,
            **attributes,
        )
        save(folder / f"{number * 7 % len(volume)}", dataset)
