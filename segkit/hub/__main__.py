"""python -m segkit.hub: see --help."""

from segkit.cli.launch import launch

if __name__ == "__main__":
    launch("hub", "segkit.hub.command:push")
