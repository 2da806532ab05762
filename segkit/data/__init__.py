"""Images and masks: reading, pairing, checking, transforming. Importing this registers sources."""

from segkit.data.builtin import CellsSource
from segkit.data.folder import FolderSource
from segkit.data.source import DataSource
from segkit.data.tracking_challenge import TrackingChallengeSource

__all__ = ["CellsSource", "DataSource", "FolderSource", "TrackingChallengeSource"]
