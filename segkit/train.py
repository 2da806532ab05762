"""python -m segkit.train: see --help."""

from segkit.cli.launch import launch


def main() -> None:
    """Run the command."""
    launch("train", "segkit.training.run:run_job")


if __name__ == "__main__":
    main()
