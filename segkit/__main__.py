"""segkit <command> ...: the same as python -m segkit.<command> ..."""

from __future__ import annotations

import runpy
import sys

from segkit.cli.launch import drop_unread_output
from segkit.core.errors import did_you_mean

COMMANDS = {
    "train": "train a model",
    "search": "find a good configuration for a data set",
    "evaluate": "score a checkpoint on a data set",
    "data": "check a data set before a training, or convert it",
    "report": "compare runs on one page",
    "predict": "write the masks of images",
    "export": "write a checkpoint as ONNX, OpenVINO or torch.export",
    "serve": "try a model on a web page, or over HTTP",
    "hub": "share a model on the Hugging Face hub",
    "benchmark": "measure what encoders and necks cost",
}


def main() -> None:
    """Run the command that the first argument names."""
    drop_unread_output()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: segkit COMMAND [KEY=VALUE ...]\n")
        for command, purpose in COMMANDS.items():
            print(f"  {command:<10} {purpose}")
        print("\nsegkit COMMAND --help lists what it takes.")
        return
    if name not in COMMANDS:
        print(
            f"error: there is no command '{name}'.{did_you_mean(name, COMMANDS)}"
            f" Known: {', '.join(COMMANDS)}.",
            file=sys.stderr,
        )
        sys.exit(2)
    del sys.argv[1]
    runpy.run_module(f"segkit.{name}", run_name="__main__")


if __name__ == "__main__":
    main()
