"""The serve command against a plain app and LitServe under load: python benchmarks/serving.py

All serve the same network and answer an image with a mask in PNG. They run at the same time, each
in a process of its own, and take turns under the same load. LitServe is compared if it lies in a
folder of its own: pip install --target FOLDER litserve, then --litserve FOLDER.
"""

from __future__ import annotations

import http.client
import io
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from harness.machine import describe_machine
from harness.process import run_script
from harness.side_by_side import OURS, choose_names, make_parser, publish
from harness.timing import alternate, compute_ratio
from segkit.benchmark.results import Section
from segkit.core.errors import SegkitError
from segkit.data.sources.cells import draw

PLAIN = """
import io, sys, threading
import numpy as np, segkit, uvicorn
from fastapi import FastAPI, UploadFile
from fastapi.responses import Response
from PIL import Image

predictor = segkit.load(sys.argv[1], device="cpu")
lock = threading.Lock()
app = FastAPI()


@app.post("/predict")
def predict(file: UploadFile) -> Response:
    image = np.asarray(Image.open(file.file))
    with lock:
        labels = predictor(image).labels
    png = io.BytesIO()
    Image.fromarray(labels).save(png, "PNG")
    return Response(png.getvalue(), media_type="image/png")


uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""
LITSERVE = """
import io, sys
import litserve, numpy as np, segkit
from fastapi import Response
from PIL import Image


class Api(litserve.LitAPI):
    def setup(self, device):
        self.predictor = segkit.load(sys.argv[1], device="cpu")

    def decode_request(self, request):
        return np.asarray(Image.open(io.BytesIO(request["file"].file.read())))

    def predict(self, image):
        return self.predictor(image).labels

    def encode_response(self, labels):
        png = io.BytesIO()
        Image.fromarray(labels).save(png, "PNG")
        return Response(png.getvalue(), media_type="image/png")


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", timeout=600)
    server.run(port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
"""
START = 180
"""Seconds that a server may take to start."""
MOST = {"one client": 1.1, "16 clients": 1.1}
"""Highest wanted ratios of seconds to the plain app."""


class Load:
    """Clients that send images, each the next one as soon as it has its answer.

    Args:
        side: Of the images that are measured.
        clients: Their number.
        images: How many they send together.
        beside: Side of images that one more client sends meanwhile, without end.
    """

    def __init__(self, side: int, clients: int, images: int, beside: int | None = None) -> None:
        self.clients, self.images = clients, images
        self._data = make_png(side)
        self._beside = make_png(beside) if beside else None

    def __call__(self, port: int, seconds: list[float]) -> float:
        """Add the seconds of each answer; return those of all of it."""
        stop = threading.Event()
        with ThreadPoolExecutor(self.clients + 1) as threads:
            if self._beside:
                threads.submit(send, port, self._beside, stop.is_set)
                time.sleep(1)  # until it is being predicted
            each = self.images // self.clients
            began = time.perf_counter()
            clients = [
                threads.submit(send, port, self._data, partial(is_last, iter(range(each))))
                for _ in range(self.clients)
            ]
            for client in clients:
                seconds += client.result()
            taken = time.perf_counter() - began
            stop.set()
        return taken


def is_last(numbers: Iterator[int]) -> bool:
    return next(numbers, None) is None


def send(port: int, data: bytes, is_done: Callable[[], bool]) -> list[float]:
    """The seconds of the answers to an image that is sent again and again."""
    head = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    body = head + data + b"\r\n--B--\r\n"
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    seconds = []
    while not is_done():
        began = time.perf_counter()
        kind = {"Content-Type": "multipart/form-data; boundary=B"}
        client.request("POST", "/predict?format=png", body, kind)
        answer = client.getresponse()
        content = answer.read()
        seconds.append(time.perf_counter() - began)
        if answer.status != 200:
            raise SegkitError(f"port {port} answered {answer.status}: {content[:200]!r}")
    client.close()
    return seconds


def make_png(side: int) -> bytes:
    """Drawn cells, repeated to the size."""
    small = draw(1, (256, 256)).image[..., 0]
    file = io.BytesIO()
    Image.fromarray(np.tile(small, (side // 256, side // 256))).save(file, "PNG")
    return file.getvalue()


CASES = {
    "one client": Load(256, 1, 40),
    "16 clients": Load(256, 16, 96),
    "large images": Load(2048, 1, 2),
    "8 clients beside large images": Load(256, 8, 16, beside=2048),
}


@contextmanager
def run_server(words: list[str], port: int, folder: Path, site: Path | None) -> Iterator[int]:
    """Run a server until it answers; its process id."""
    paths = [str(Path.cwd()), *([str(site)] if site else []), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with (folder / f"{port}.log").open("w+") as log:
        process = subprocess.Popen(
            words, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
        )
        try:
            for _ in range(START):
                time.sleep(1)
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if process.poll() is not None:
                    log.seek(0)
                    raise SegkitError(f"{' '.join(words)} ended: {log.read()[-2000:]}")
            send(port, make_png(256), partial(is_last, iter(range(3))))  # warm
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # with what it has started
            process.wait()


def find_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def read_peak_mb(pid: int) -> float:
    """The peak memory of a process and of those that it has started, one after the other."""
    status = Path(f"/proc/{pid}/status").read_text()
    own = int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(read_peak_mb(int(child)) for child in children)


def train_network(folder: Path) -> Path:
    """A checkpoint of a U-Net with resnet18; what it has learned does not matter."""
    words = ["-m", "segkit.train", "experiment=quick", "encoder=resnet18", "neck=unet"]
    words += ["encoder.pretrained=false", "trainer.progress_bar=false", "trainer.accelerator=cpu"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    subprocess.run(
        [sys.executable, *words], cwd=folder, env=env, stdout=subprocess.DEVNULL, check=True
    )
    return next(folder.glob("runs/**/best.ckpt"))


def find_quantile(seconds: list[float], percent: int) -> float:
    """In milliseconds."""
    return 1e3 * statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1]


def main() -> None:
    parser = make_parser(str(__doc__), rounds=4, warm_up=0)
    parser.add_argument("--litserve", type=Path, help="folder of an installed LitServe")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    raw: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        checkpoint = str(train_network(folder))
        words = {OURS: ["-m", "segkit.serve", f"checkpoint={checkpoint}", "device=cpu", "port={}"]}
        for other, code in {"plain app": PLAIN, "LitServe": LITSERVE}.items():
            script = folder / f"{other.replace(' ', '_')}.py"
            script.write_text(code)
            words[other] = [str(script), checkpoint, "{}"]
        if options.litserve is None:
            del words["LitServe"]
        ports = {server: find_port() for server in words}
        pids = {}
        for server, given in words.items():
            command = [sys.executable, *(word.format(ports[server]) for word in given)]
            site = options.litserve if server == "LitServe" else None
            pids[server] = stack.enter_context(run_server(command, ports[server], folder, site))
        machine = describe_machine()
        for case in choose_names(list(CASES), options.only):
            answers: dict[str, list[float]] = {server: [] for server in words}
            measures = {
                server: partial(CASES[case], ports[server], answers[server]) for server in words
            }
            found = alternate(measures, options.rounds, options.warm_up).seconds
            for server, seconds in found.items():
                kept = answers[server][options.warm_up * CASES[case].images :]
                rows.append(
                    {
                        "case": case,
                        "server": server,
                        "p50, ms": find_quantile(kept, 50),
                        "p99, ms": find_quantile(kept, 99),
                        "images/s": len(kept) / sum(seconds),
                        f"{OURS} / it, seconds": str(compute_ratio(found[OURS], seconds))
                        if server != OURS
                        else None,
                        "at most": MOST.get(case) if server == "plain app" else None,
                    }
                )
            raw[case] = {"seconds": found, "answers": answers}
        peaks = [{"server": server, "peak, MB": read_peak_mb(pid)} for server, pid in pids.items()]
    sections = [Section("Load", rows), Section("Peak memory", peaks, [MEMORY])]
    options.litserve = options.litserve and "a folder"
    publish("serving", "Serving under load", options, machine, sections, [WHAT], raw)


WHAT = (
    "A U-Net with resnet18 on grey images in PNG; the answer is a mask in PNG. `plain app` is"
    " FastAPI with a dozen lines around segkit.load, `LitServe` the same in its own worker process."
    " Images have 256 x 256 pixels, large ones 2048 x 2048; in the last case one more client sends"
    " large ones. Each client sends the next image when it has its answer. p50 and p99"
    " are of all answers of all rounds, with waiting. Ratios are of the seconds of the same load in"
    " the same round, medians with quartiles; below 1 segkit is faster. The clients run on the same"
    " cores."
)
MEMORY = "Over all cases, with the processes that a server starts."

if __name__ == "__main__":
    run_script(main)
