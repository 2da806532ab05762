"""python -m segkit.benchmark: see --help."""

from segkit.cli.launch import launch

if __name__ == "__main__":
    launch("benchmark", "segkit.benchmark.command:benchmark")
