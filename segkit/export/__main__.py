"""python -m segkit.export: see --help."""

from segkit.cli.launch import launch

if __name__ == "__main__":
    launch("export", "segkit.export.command:export")
