"""The end of a cross-validation: scores over all of its images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from segkit.config.quoting import quote_option, quote_value
from segkit.core.ensembles import ENSEMBLE


class ScoreFolds(Callback):
    """Scores each image of a cross-validation with the network that has not seen it.

    It follows :class:`segkit.report.sweep.SweepTable`, which writes ``ensemble.yaml``. Where jobs
    run on other machines it leaves that to the user.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Score, write the report and the masks, or say how."""
        folder = Path(config.hydra.sweep.dir)
        if not (folder / ENSEMBLE).is_file():
            return
        options = [("checkpoint", folder / ENSEMBLE), ("split", "folds"), ("masks", True)]
        options.append(("output", folder / "out_of_fold"))
        if not str(config.hydra.launcher["_target_"]).endswith("BasicLauncher"):
            typed = " ".join(quote_option(key, value) for key, value in options)
            print(f"all images with the networks of other folds: python -m segkit.evaluate {typed}")
            return
        from segkit.config.compose import compose
        from segkit.evaluate.command import evaluate

        given = [f"{key}={quote_value(value)}" for key, value in options]
        evaluate(compose([*given, f"plugins={quote_value(config.get('plugins', []))}"], "evaluate"))
