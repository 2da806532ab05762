"""The report command."""

from __future__ import annotations

from omegaconf import DictConfig

from segkit.config.settings import ReportSettings, parse_settings
from segkit.core.errors import SegkitError
from segkit.report.comparison import write_comparison
from segkit.report.runs import find_runs


def compare_runs(config: DictConfig) -> None:
    """Write the page that compares runs.

    Raises:
        SegkitError: The folders hold no runs or only one, or the page cannot be written.
    """
    settings = parse_settings(ReportSettings, config)
    if not settings.runs:
        raise SegkitError(
            "name the folders of the runs to compare: python -m segkit.report runs/A runs/B"
        )
    if settings.output.suffix.lower() not in (".html", ".htm"):
        raise SegkitError(f"output={settings.output}: the page is HTML, so end it in .html.")
    runs = find_runs(settings.runs)
    if len(runs) < 2:
        raise SegkitError(f"{runs[0].folder} is one run: name another one to compare it with.")
    for run in runs:
        for problem in run.problems:
            print(f"note: {run.folder}: {problem}")
    write_comparison(settings.output, runs)
    print(f"{len(runs)} runs compared: {settings.output}")
