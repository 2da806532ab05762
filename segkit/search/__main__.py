"""python -m segkit.search: see --help."""

import sys

from segkit.cli.launch import launch
from segkit.search.command_line import gather_options

if __name__ == "__main__":
    sys.argv[1:] = gather_options(sys.argv[1:])
    launch("search", "segkit.search.command:search")
