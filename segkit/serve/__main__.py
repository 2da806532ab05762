"""python -m segkit.serve: see conf/serve.yaml, or --help."""

from segkit.cli.launch import launch

if __name__ == "__main__":
    launch("serve", "segkit.serve.command:serve")
