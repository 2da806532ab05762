"""Where samples come from."""

from segkit.data.sources.base import DataSource as DataSource
