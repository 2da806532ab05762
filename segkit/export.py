"""python -m segkit.export: see conf/export.yaml, or --help."""

from segkit.launch import launch


def main() -> None:
    """Run the command."""
    launch("export", "segkit.exporting.command:export")


if __name__ == "__main__":
    main()
