"""python -m segkit.evaluate: see --help."""

from segkit.cli.launch import launch

if __name__ == "__main__":
    launch("evaluate", "segkit.evaluate.command:evaluate")
