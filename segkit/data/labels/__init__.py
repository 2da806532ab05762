"""Annotation files of other programs: outlines, run lengths and mask files by class."""

from segkit.data.labels.base import AnnotatedImage as AnnotatedImage
from segkit.data.labels.base import Annotations as Annotations
from segkit.data.labels.base import LabelFormat as LabelFormat
from segkit.data.labels.base import Shape as Shape
from segkit.data.labels.base import find_formats as find_formats
from segkit.data.labels.base import read_annotations as read_annotations
