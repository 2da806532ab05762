"""What files and folders of images, masks and other things are called."""

from __future__ import annotations

import re


def _read_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


IMAGES = _read_words("images image imgs img jpegimages leftimg8bit imagestr rgb image_2")
"""What folders of images are called, besides the name that is given."""
MASKS = _read_words(
    "masks mask labels label annotations annotation gt gtfine segmentationclass labelstr "
    "groundtruth ground_truth targets semantic"
)
"""What folders of masks are called, besides the name that is given."""
BESIDE = ("annot", "_labels", "_masks", "_mask", "_gt", "masks", "labels", "-masks", "-labels")
"""What follows a folder of images in the name of the folder of its masks."""
OF_MASKS = _read_words(
    "mask masks label labels lab labs annotation annotations annot anno ann gt gts ground "
    "groundtruth truth segmentation segmentations seg segs target targets manual semantic "
    "map trimap trimaps matte mattes msk lbl"
)
"""Words in the names of masks and of their folders."""
OF_IMAGES = _read_words(
    "image images img imgs im input inputs original originals org rgb sat photo photos "
    "picture pictures scans tissue top"
)
"""Words in the names of images and of their folders."""
NEVER_IMAGES = _read_words(
    "vis viz visualization overlay overlays instance instances panoptic object edge edges "
    "boundary boundaries contour contours superpixels colormap colormaps"
)
"""Words in the names of other files that belong to masks, and are neither images nor labels."""
FOR_EYES = NEVER_IMAGES | {"rgb", "color", "colors", "colour", "colours"}
"""Words in the names of masks that are taken if there are no other ones."""
COMPOUND = ("mask", "masks", "label", "labels")
"""What words end in that are made of two, such as inklabels."""
SHORT_SPLITS = _read_words("tr te ts vd")
"""Words for splits that may mean something else, so that such folders are not taken together."""


def split_words(*names: str) -> frozenset[str]:
    """The words in names, in lower case.

    Example:
        >>> sorted(split_words("gtFine_labelIds2", "GroundTruth"))
        ['fine', 'ground', 'gt', 'ids', 'label', 'truth']
    """
    found = (re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name) for name in names)
    return frozenset(word.lower() for words in found for word in words)
