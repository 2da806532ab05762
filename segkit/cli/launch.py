"""Start a command: compose its config, run it, turn errors into messages. Imports no torch."""

from __future__ import annotations

import errno
import gc
import importlib
import io
import json
import math
import os
import stat
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkit.config.compose import VERSION_BASE, find_conf_dir, prepare, session
from segkit.config.overrides import explain_composition, list_composition_errors
from segkit.config.quoting import quote_value
from segkit.config.resumed import admit_resumed, find_resumed, read_sweep
from segkit.core import plugins
from segkit.core.allocator import keep_freed_memory
from segkit.core.errors import SegkitError, Stop, did_you_mean
from segkit.core.interrupts import Stopped, raise_signals, stop_raising
from segkit.core.sharing import Share, find_idle_tasks, is_said

if TYPE_CHECKING:
    from omegaconf import DictConfig

USER_ERROR = 2
"""Exit status of a user's error."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""The errors of a full disk or quota."""


def launch(command: str, target: str, positional: str | None = None) -> None:
    """Run a command on the configs of conf/<command>.yaml and the command line.

    Args:
        command: Its name.
        target: Its function, as ``module:function``; imported after the config is composed, so
            that ``--help`` and ``--cfg job`` need not wait for torch.
        positional: The option whose values may be typed without its key, if there is one.
    """
    gc.disable()  # a tenth of the time of --help: importing makes objects that all stay
    import hydra
    from hydra._internal.utils import get_args_parser
    from hydra.core.hydra_config import HydraConfig

    drop_unread_output()
    raise_signals()
    args = get_args_parser().parse_intermixed_args()
    # Hydra's own parser takes no overrides after a flag
    flags = [text for text in sys.argv[1:] if text not in args.overrides]
    if positional is not None:
        args.overrides = _name_positional(args.overrides, positional)
    try:
        _refuse_flags(args)
        resumed = find_resumed(args.overrides)
        if resumed is not None:
            sweep = read_sweep(resumed)
            args.overrides = admit_resumed(args.overrides, resumed, sweep)
            flags += ["--multirun"] if sweep is not None else []
        sys.argv[1:] = [*flags, *args.overrides]
        if args.help:
            from segkit.cli.help import make_help_page

            print(make_help_page(command, args.overrides, args.config_dir))
            return
        prepare(args.config_dir, args.overrides)
        if Share.join().count > 1 and args.multirun:
            raise SegkitError(
                "a sweep (-m) is started once, not by torchrun or srun. With hydra/launcher=slurm"
                " each of its jobs becomes a job of Slurm, of several processes if wanted."
            )
        if note := find_idle_tasks():
            print(f"note: {note}", file=sys.stderr)
    except SegkitError as error:
        _exit(error)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors are raised, and shown below
    failed: list[int] = []
    began = False

    @hydra.main(version_base=VERSION_BASE, config_path=str(find_conf_dir()), config_name=command)
    def run(config: DictConfig) -> Any:
        nonlocal began
        began = True
        gc.enable()
        module, _, function = target.partition(":")
        keep_freed_memory()
        try:
            named = list(HydraConfig.get().overrides.task)
            plugins.require_named(plugins.as_list(config.get("plugins")), named)
            return getattr(importlib.import_module(module), function)(config)
        except SystemExit as end:  # one process of several, which leaves the rest to the first
            if end.code or not _is_sweep():
                raise
        except SegkitError as error:
            if not _is_sweep():
                if not config.get("resume"):  # else it is the user's folder
                    _remove_if_empty(Path(HydraConfig.get().runtime.output_dir))
                raise Stop(error) from error
            _record_failure(error)
            failed.append(1)
        except Exception as error:  # such as running out of memory: the other jobs go on
            if not _is_sweep():
                raise
            traceback.print_exception(error)
            _record_failure(error)
            failed.append(1)
        return math.nan  # a sweeper that chooses by scores goes on

    try:
        run()
    except KeyboardInterrupt as error:
        stop_raising()
        with suppress(OSError):  # the terminal may be closed
            print("stopped", file=sys.stderr)
            if HydraConfig.initialized() and _is_sweep():
                folder = HydraConfig.get().sweep.dir
                print(f"to go on with the sweep: resume={folder}", file=sys.stderr)
        sys.exit(error.status if isinstance(error, Stopped) else INTERRUPTED)
    except (SegkitError, Stop) as error:
        _exit(error)
    except list_composition_errors() as error:  # some of them are OSErrors too
        with session(args.config_dir, args.overrides):
            _exit(explain_composition(error, command, args.overrides))
    except OSError as error:
        if error.errno in FULL:  # the file may be a temporary one of a library
            where = "the disk of the run folder or of the folder for temporary files"
            _exit(SegkitError(f"{error.strerror}: free some space on {where}."))
        if error.filename is None:
            raise
        why = f"'{error.filename}' cannot be used: {error.strerror}. Name another folder or file."
        _exit(SegkitError(why))
    except Exception as error:
        if type(error).__module__.startswith("submitit"):
            why = str(error).partition("\n")[0]
            _exit(SegkitError(f"a job of the sweep was lost, the others go on: {why}"))
        if began:
            raise
        with session(args.config_dir, args.overrides):  # Hydra's, about odd values
            _exit(explain_composition(error, command, args.overrides))
    if failed:
        sys.exit(USER_ERROR)


def _name_positional(typed: list[str], key: str) -> list[str]:
    """Give words without a key their key; values with a sign = need to be typed with it."""
    values = [text for text in typed if "=" not in text]
    others = [text for text in typed if "=" in text]
    return [f"{key}={quote_value(values)}", *others] if values else others


def _refuse_flags(args: Any) -> None:
    """Refuse the flags of Hydra that replace the configs of segkit, or run what a pickle holds."""
    named = [
        f"--{flag.replace('_', '-')}"
        for flag in ("config_path", "config_name", "experimental_rerun")
        if getattr(args, flag) is not None
    ]
    if named:
        raise SegkitError(
            f"{' and '.join(named)}: segkit takes its own configs. Add groups of yours with"
            " --config-dir DIR; resume a run with resume=RUN."
        )


def launch_part(command: str, parts: Mapping[str, tuple[str, str]]) -> None:
    """Run the sub-command that the first argument names, see :func:`launch`.

    Args:
        command: The name of the command.
        parts: What each sub-command does, and its function.
    """
    drop_unread_output()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(f"usage: python -m segkit.{command} COMMAND [KEY=VALUE ...]\n")
        for part, (purpose, _) in parts.items():
            print(f"  {part:<10} {purpose}")
        print(f"\npython -m segkit.{command} COMMAND --help lists what it takes.")
        return
    if name not in parts:
        known = ", ".join(parts)
        _exit(
            SegkitError(
                f"{command} has no command '{name}'.{did_you_mean(name, parts)} Known: {known}."
                f" It comes first, as in: python -m segkit.{command} {next(iter(parts))} ..."
            )
        )
    del sys.argv[1]
    # the default, and no choice of the group, because a training cannot leave the head open
    sys.argv[1:] = [text for text in sys.argv[1:] if text != "head=auto"]
    launch(f"{command}_{name}", parts[name][1])


def drop_unread_output() -> None:
    """Let a command finish when its output is no longer read, as in ``| head``."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            descriptor = stream.fileno()
            is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
        except (AttributeError, OSError):  # closed, or a notebook's
            continue
        if is_pipe:
            stream.flush()
            pipe = io.BufferedWriter(_Pipe(descriptor, "w", closefd=False))
            encoding, errors = stream.encoding, stream.errors
            setattr(sys, name, io.TextIOWrapper(pipe, encoding, errors, line_buffering=True))


class _Pipe(io.FileIO):
    """A pipe that accepts everything when its reader is gone."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _remove_if_empty(folder: Path) -> None:
    """Remove the run folder, which Hydra makes before anything is checked."""
    here = Path.cwd()
    while here in folder.parents and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _exit(error: BaseException) -> None:
    if os.environ.get("SEGKIT_DEBUG") == "1":
        traceback.print_exception(error)
    cause = error.__cause__ if isinstance(error, Stop) else error
    if not is_said(str(error)):
        print(f"error: {error}", *getattr(cause, "__notes__", []), sep="\n", file=sys.stderr)
    sys.exit(USER_ERROR)


def _is_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode == RunMode.MULTIRUN


def _record_failure(error: Exception) -> None:
    """Record a failed job for the table of its sweep."""
    from hydra.core.hydra_config import HydraConfig

    from segkit.core.files import write_whole

    config = HydraConfig.get()
    message = str(error) if isinstance(error, SegkitError) else repr(error)
    print(f"error: {message}", file=sys.stderr)
    result = {"overrides": list(config.overrides.task), "error": message}
    write_whole(Path(config.runtime.output_dir) / "result.json", json.dumps(result, indent=2))
