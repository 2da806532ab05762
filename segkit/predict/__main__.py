"""python -m segkit.predict: see --help."""

from segkit.cli.launch import launch

if __name__ == "__main__":
    launch("predict", "segkit.predict.command:predict")
