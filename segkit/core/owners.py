"""Which process owns a file: temporary files that a killed process left, and folders in use."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from segkit.core.errors import SegkitError

LOCK = ".lock"
"""Name of the file by which a process holds a folder."""
BEAT = 5.0
"""Seconds between two signs of life of a holder."""
SILENCE = 30.0
"""Seconds without one after which a holder on another machine is dead."""
OLD = 24 * 3600.0
"""Seconds after which a temporary file of another machine belongs to nobody."""


@dataclass(frozen=True)
class Owner:
    """A process, as the name of a file can tell it.

    Attributes:
        host: Its machine; containers are machines of their own.
        pid: Its number there.
        started: When it started, in clock ticks since the boot; 0 where the system does not say.
    """

    host: str
    pid: int
    started: int

    @classmethod
    def current(cls) -> Owner:
        """This process."""
        pid = os.getpid()
        return cls(_name_machine(), pid, _find_start(pid) or 0)

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """The inverse of ``str``; None if the text is something else."""
        host, *numbers = text.rsplit("-", 2)
        if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
            return None
        return cls(host, int(numbers[0]), int(numbers[1]))

    def __str__(self) -> str:
        return f"{self.host}-{self.pid}-{self.started}"

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this machine."""
        return self.host == _name_machine()

    def is_gone(self) -> bool:
        """Whether it ran on this machine and has ended."""
        if not self.is_here or sys.platform == "win32":  # where a signal 0 is Ctrl-C
            return False
        if Path("/proc/self").is_dir():
            return _find_start(self.pid) != self.started
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # it is another user's
            return False
        return False


def _name_machine() -> str:
    """The name of the machine, and of the container: processes of another one are not seen."""
    name = "".join(c if c.isalnum() or c in "._" else "_" for c in socket.gethostname())
    try:
        return f"{name}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return name


def _find_start(pid: int) -> int | None:
    """When a process started; None if there is none, or it has ended and is not collected."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def is_abandoned(path: Path, owner: str) -> bool:
    """Whether a temporary file belongs to no living process."""
    found = Owner.parse(owner)
    if found is None:
        return False
    if found.is_here:
        return found.is_gone()
    try:
        return time.time() - path.stat().st_mtime > OLD
    except OSError:
        return False


@contextmanager
def hold_folder(folder: Path, use: str) -> Iterator[None]:
    """Hold a folder, so that no other process writes a run or predictions into it meanwhile.

    The file ``.lock`` in it names the holder. That of a process that has ended is taken over; of a
    process on another machine only the file can be seen, which it touches every few seconds.

    Args:
        folder: The folder, which is made.
        use: What holds it, for the message that others get: "a training".

    Raises:
        SegkitError: Another process holds it; the message names it.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        own = _take(path, use)
    except OSError as error:
        raise SegkitError(
            f"the folder '{folder}' cannot be made: {error.strerror or error}. Name another one."
        ) from error
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        with contextlib.suppress(OSError), _open_alone(path) as file:
            if file.read() in (own, b""):
                path.unlink()


def _take(path: Path, use: str) -> bytes:
    """Write the own name into the file, once its holder is gone; return what is written."""
    silent = b""
    while True:
        with _open_alone(path) as file:
            held, state = file.read(), os.fstat(file.fileno())
            # the number of the file tells it from the copy of a folder that is in use
            name, number, what = (held.decode(errors="replace") + "  ").split(" ", 2)
            holder = Owner.parse(name) if number == str(state.st_ino) else None
            if holder is None or holder.is_gone() or held == silent:
                own = f"{Owner.current()} {state.st_ino} {use}".encode()
                file.seek(0)
                file.truncate()
                file.write(own)
                return own
        if holder.is_here or _lives(path, state.st_mtime_ns):
            machine = holder.host.rpartition(".")[0] or holder.host
            raise SegkitError(
                f"{path.parent} is in use by {what.strip()}, process {holder.pid} on {machine}."
                " Wait for its end, or name another folder."
            )
        silent = held  # it is gone, unless another process is faster


def _lives(path: Path, seen: int) -> bool:
    """Whether a holder on another machine gives a sign of life; by this file's clock alone."""
    end = time.monotonic() + SILENCE
    while time.monotonic() < end:
        time.sleep(0.5)
        try:
            if path.stat().st_mtime_ns != seen:
                return True
        except FileNotFoundError:
            return False
    return False


@contextmanager
def _open_alone(path: Path) -> Iterator[BinaryIO]:
    """Open a file that exists under this name, while no other process has it open like this."""
    while True:
        path.touch()
        with path.open("r+b") as file:
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            except (ImportError, OSError):  # Windows; a file system without locks
                pass
            try:
                is_current = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except FileNotFoundError:
                is_current = False
            if is_current:
                yield file
                return


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)
