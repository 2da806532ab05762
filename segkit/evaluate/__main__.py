"""python -m segkit.evaluate: see conf/evaluate.yaml, or --help."""

from segkit.cli.launch import launch

if __name__ == "__main__":
    launch("evaluate", "segkit.evaluate.command:evaluate")
