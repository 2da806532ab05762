"""Images and masks: reading, pairing, checking, transforming. Importing this registers sources."""

from segkit.data.sources.base import DataSource
from segkit.data.sources.builtin import CellsSource
from segkit.data.sources.folder import FolderSource
from segkit.data.sources.tracking_challenge import TrackingChallengeSource

__all__ = ["CellsSource", "DataSource", "FolderSource", "TrackingChallengeSource"]
