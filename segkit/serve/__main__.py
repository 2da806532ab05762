"""python -m segkit.serve: see --help."""

from segkit.cli.launch import launch

if __name__ == "__main__":
    launch("serve", "segkit.serve.command:serve")
