"""How a command starts: compose, run, turn errors into messages. Imports no torch."""

from __future__ import annotations

import errno
import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from segkit.config.compose import VERSION_BASE, conf_dir, prepare, session
from segkit.config.overrides import composition_errors, explain
from segkit.core import plugins
from segkit.core.allocator import keep_freed_memory
from segkit.core.errors import SegkitError

if TYPE_CHECKING:
    from omegaconf import DictConfig

USER_ERROR = 2
"""Exit status for what the user got wrong."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""What is said where a disk or a user's share of it is full."""


def launch(command: str, target: str) -> None:
    """Run a command on the configs of conf/<command>.yaml and the command line.

    Args:
        command: Its name.
        target: Where its function is, as ``module:function``; imported when the config is
            composed, so that ``--help`` and ``--cfg job`` need not wait for torch.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig

    if {"--help", "-h"} & set(sys.argv[1:]):
        _print_help(command)
        return
    prepare()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us; we show them
    failed: list[int] = []

    @hydra.main(version_base=VERSION_BASE, config_path=str(conf_dir()), config_name=command)
    def run(config: DictConfig) -> None:
        module, _, function = target.partition(":")
        keep_freed_memory()
        try:
            named = list(HydraConfig.get().overrides.task)
            plugins.require_named(plugins.listed(config.get("plugins")), named)
            getattr(importlib.import_module(module), function)(config)
        except SegkitError as error:
            if not _is_sweep():
                if not config.get("resume"):  # else it is the user's
                    _remove_if_empty(Path(HydraConfig.get().runtime.output_dir))
                raise _Stop(error) from error
            _record_failure(error)
            failed.append(1)
        except Exception as error:  # out of memory, say: the other jobs go on
            if not _is_sweep():
                raise
            traceback.print_exception(error)
            _record_failure(error)
            failed.append(1)

    try:
        run()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (SegkitError, _Stop) as error:
        _exit(error)
    except composition_errors() as error:  # some of them are OSErrors too
        _exit(_explain(error, command))
    except OSError as error:
        if error.errno in FULL:  # its file may be one of a library, for a moment
            where = "that of the run folder or of the folder for temporary files"
            _exit(SegkitError(f"{error.strerror}: make room on the disk, {where}."))
        if error.filename is None:
            raise
        why = f"'{error.filename}' cannot be used: {error.strerror}. Name another folder or file."
        _exit(SegkitError(why))
    if failed:
        sys.exit(USER_ERROR)


class _Stop(BaseException):
    """Takes a user's error past Hydra, which would write about it too."""


def _print_help(command: str) -> None:
    from hydra._internal.utils import get_args_parser

    from segkit.cli.help import help_page

    args = get_args_parser().parse_args()
    try:
        print(help_page(command, args.overrides, args.config_dir))
    except SegkitError as error:
        _exit(error)


def _remove_if_empty(folder: Path) -> None:
    """Hydra makes the run folder before anything is known to be right."""
    here = Path.cwd()
    while here in folder.parents and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _exit(error: BaseException) -> None:
    if os.environ.get("SEGKIT_DEBUG") == "1":
        traceback.print_exception(error)
    print(f"error: {error}", file=sys.stderr)
    sys.exit(USER_ERROR)


def _explain(error: Exception, command: str) -> SegkitError:
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_args()
    with session():
        return explain(error, command, args.overrides, args.config_dir)


def _is_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode == RunMode.MULTIRUN


def _record_failure(error: Exception) -> None:
    """A job of a sweep that failed has its line in the table, and the others go on."""
    from hydra.core.hydra_config import HydraConfig

    from segkit.core.files import write_whole

    config = HydraConfig.get()
    message = str(error) if isinstance(error, SegkitError) else repr(error)
    print(f"error: {message}", file=sys.stderr)
    result = {"overrides": list(config.overrides.task), "error": message}
    write_whole(Path(config.runtime.output_dir) / "result.json", json.dumps(result, indent=2))
