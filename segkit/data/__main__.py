"""python -m segkit.data check, and convert: see --help."""

from segkit.cli.launch import launch_part

COMMANDS = {
    "check": (
        "tell what a data set holds, and whether it can be used",
        "segkit.inspection.command:check_data",
    ),
    "convert": (
        "write a data set as plain images and masks",
        "segkit.inspection.command:convert_data",
    ),
}

if __name__ == "__main__":
    launch_part("data", COMMANDS)
