"""Train a segmentation model; the same as ``robustseg train``."""

import sys

from robustseg.cli.main import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    sys.exit(main())
