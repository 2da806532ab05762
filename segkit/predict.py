"""python -m segkit.predict: see conf/predict.yaml, or --help."""

from segkit.launch import launch


def main() -> None:
    """Run the command."""
    launch("predict", "segkit.predicting.command:predict")


if __name__ == "__main__":
    main()
