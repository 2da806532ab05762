"""What is known of a sample, as arrays: read from its files, or from the cache of the run."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.coding import LabelCoding
from segkit.core.errors import SegkitError
from segkit.data.augment.cropping import count_by_row
from segkit.data.loading.cache import ArrayCache
from segkit.data.sources.base import DataSource, Sample
from segkit.targets.base import Target
from segkit.targets.objects import number_labelled_objects, number_regions


class SampleReader:
    """Reads images and masks, the masks as what is learned of them.

    What it gives may lie in memory-mapped files: it must not be written to.

    Args:
        source: The data set.
        coding: What the values of its masks mean.
        target: What is learned of the masks.
        cache: Where it keeps what it read; None: nowhere.
    """

    def __init__(
        self,
        source: DataSource,
        coding: LabelCoding,
        target: Target,
        cache: ArrayCache | None = None,
    ) -> None:
        self.source, self.coding, self.target, self.cache = source, coding, target, cache

    def image(self, sample: Sample) -> NDArray[Any]:
        """(H, W, C), uint8, uint16 or float32, as the source has it."""
        if self.cache is None:
            return self.source.read_image(sample)
        return self.cache.fetch(sample, "image", lambda: self.source.read_image(sample))

    def marks(self, sample: Sample) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """What augmentation warps: ids of objects where the target is made from them, else labels.

        Raises:
            SegkitError: The mask cannot be read, or has a value that is no label and no id.
        """
        return self.ids(sample) if self.target.from_ids else self.labels(sample)

    def counts(self, sample: Sample) -> NDArray[np.int32] | None:
        """The :func:`count_by_row` of the marks, to crop on the foreground; None without a cache.

        To count once is slower than to look for the foreground once.
        """
        if self.cache is None:
            return None
        return self.cache.fetch(sample, "counts", lambda: count_by_row(self.marks(sample)))

    def labels(self, sample: Sample) -> NDArray[np.uint8]:
        """(H, W) or (H, W, N) labels. Raises: As :meth:`marks`."""
        if self.cache is None:
            return self._encoded(sample)
        return self.cache.fetch(sample, "labels", lambda: self._encoded(sample))

    def ids(self, sample: Sample) -> NDArray[np.uint16]:
        """(H, W) objects; of a set without ids the connected regions of its foreground.

        Raises:
            SegkitError: As :meth:`marks`.
        """
        if self.cache is None:
            return self._numbered(sample)
        return self.cache.fetch(sample, "ids", lambda: self._numbered(sample))

    def _encoded(self, sample: Sample) -> NDArray[np.uint8]:
        mask = self.source.read_mask(sample)
        try:
            return self.coding.encode(mask)
        except SegkitError as error:
            raise SegkitError(f"{sample.name}: {error}") from error

    def _numbered(self, sample: Sample) -> NDArray[np.uint16]:
        if not self.source.instances:
            return number_regions(self.labels(sample))
        try:
            return number_labelled_objects(self.source.read_mask(sample), self.coding.to_label)
        except SegkitError as error:
            raise SegkitError(f"{sample.name}: {error}") from error
