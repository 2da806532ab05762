"""python -m segkit.serve: see conf/serve.yaml, or --help."""

from segkit.launch import launch


def main() -> None:
    """Run the command."""
    launch("serve", "segkit.serving.command:serve")


if __name__ == "__main__":
    main()
