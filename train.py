"""Train a segmentation model; the same as ``robustseg train``."""

import sys

from robustseg.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]], whole_process=True))
