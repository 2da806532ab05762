"""python -m segkit.benchmark: see conf/benchmark.yaml, or --help."""

from segkit.cli.launch import launch


def main() -> None:
    """Run the command."""
    launch("benchmark", "segkit.benchmarking.command:benchmark")


if __name__ == "__main__":
    main()
