"""A model that is nothing but a threshold, so that what is served can be told in advance."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.values import Normalization
from segkit.config.settings import ServeSettings
from segkit.inference.predictor import Prediction
from segkit.targets.objects import label_regions

COLORS = ((0, 114, 178), (230, 159, 0), (0, 158, 115))


def make_card(mode="binary", names=("background", "cell"), **changes):
    count = len(names)
    known = {
        "encoder": {"name": "resnet18"},
        "neck": {"name": "unet"},
        "head": {"name": mode},
        "in_channels": 1,
        "num_classes": count,
        "auxiliary": 0,
        "img_size": (64, 64),
        "class_names": names,
        "class_colors": COLORS[:count],
        "normalization": Normalization("uint8", 0, 255, (0.5,), (0.2,)),
        "mask_values": (0, 255) if count == 2 else tuple(range(0, 10 * count, 10)),
        "mode": mode,
    }
    return ModelCard(**{**known, **changes})


class Thresholds:
    """Class k where a pixel is brighter than 100 k; of layers, layer k there."""

    def __init__(self, card=None, instances="components"):
        self.card = card or make_card()
        self.mode, self.instances = self.card.mode, instances
        self.seen = []

    def try_stream(self, images, pause=lambda: None):
        for image in images:
            pause()
            yield self(image)

    def __call__(self, image):
        self.seen.append(image.shape)
        grey = image[..., 0].astype(np.float32)
        count = self.card.num_classes
        levels = np.stack([grey > 100 * (k + 1) for k in range(max(1, count - 1))])
        if self.mode == "multilabel":
            labels = np.stack([grey > 100 * (k + 1) for k in range(count)]).astype(np.uint8)
        else:
            labels = levels.sum(axis=0).astype(np.uint8)
        found = None if self.instances is None else label_regions(labels)
        return Prediction(labels, levels.astype(np.float32), found)


def as_png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def gigapixel_png(side=60_000):
    """Some bytes that claim to be side x side grey pixels."""
    data = bytearray(as_png(np.zeros((8, 8), np.uint8)))
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.fixture
def two_squares():
    """40 x 30 pixels, dark, with a bright square of 4 x 4 and one of 6 x 2."""
    image = np.zeros((30, 40), np.uint8)
    image[2:6, 10:14] = 150
    image[20:22, 30:36] = 150
    return image


@contextmanager
def serving(predictor=None, keys=(), **options):
    """A real server in a thread, with the port on which it answers."""
    pytest.importorskip("fastapi_offline", reason="the extra serve is not installed")
    from segkit.serve.app import create_app
    from segkit.serve.command import listen
    from segkit.serve.connections import make_server

    settings = ServeSettings(checkpoint=["a.ckpt"], **options)
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        server = make_server(create_app(predictor or Thresholds(), settings, keys), settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()
