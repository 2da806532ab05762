"""python -m segkit.report: see --help."""

from segkit.cli.launch import launch

if __name__ == "__main__":
    launch("report", "segkit.report.command:compare_runs", positional="runs")
