"""The serve command: a page and an HTTP endpoint for a trained model."""

from __future__ import annotations

import importlib
import socket

from omegaconf import DictConfig

from segkit.config.settings import ServeSettings, parse_settings
from segkit.core.errors import SegkitError
from segkit.inference.predictor import load_from_settings


def serve(config: DictConfig) -> None:
    """Serve the page and the endpoint until Ctrl-C.

    Raises:
        SegkitError: The config, the keys or the checkpoint cannot be used, the extra ``serve`` is
            not installed, or the host or the port is not free.
        KeyboardInterrupt: After Ctrl-C, when the current image is finished.
    """
    settings = parse_settings(ServeSettings, config)
    try:
        importlib.import_module("python_multipart")  # FastAPI would miss it too late
        from segkit.serve.app import create_app
        from segkit.serve.connections import make_server
        from segkit.serve.guards import is_loopback, read_keys
        from segkit.serve.monitoring import LOG, set_up_log
        from segkit.serve.predictions import name_model
    except ImportError as error:
        raise SegkitError(
            f"serving needs the packages of an extra ({error}): pip install 'segkit-torch[serve]'."
        ) from error
    keys = read_keys(settings.keys) if settings.keys else []
    with listen(settings.host, settings.port) as listener:  # before the model is loaded
        app = create_app(load_from_settings(settings), settings, keys)
        set_up_log(settings.log)
        if not (keys or is_loopback(settings.host)):
            LOG.info("host=%s: other machines can send images to this server.", settings.host)
        address = format_address(listener)
        LOG.info("serving %s on %s (Ctrl-C ends it)", name_model(settings), address)
        make_server(app, settings).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; clients that connect before the server runs wait for it.

    Port 0 means any free one.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, place = sorted(found)[0]  # IPv4 first, as browsers take localhost
        return socket.create_server(place[:2], family=family)
    except socket.gaierror as error:
        raise SegkitError(f"host '{host}' is not known: {error.strerror}.") from error
    except OSError as error:
        raise SegkitError(
            f"host={host} port={port} cannot be used: {error.strerror}. Give another port, or"
            " port=0 for any free one."
        ) from error


def format_address(listener: socket.socket) -> str:
    """The address of the page behind a socket, for a browser on this machine."""
    host, port, *_ = listener.getsockname()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
