"""python -m segkit.evaluate: see conf/evaluate.yaml, or --help."""

from segkit.launch import launch


def main() -> None:
    """Run the command."""
    launch("evaluate", "segkit.inference.evaluate_command:evaluate")


if __name__ == "__main__":
    main()
