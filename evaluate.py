"""Score a checkpoint under attacks; the same as ``robustseg evaluate``."""

import sys

from robustseg.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]], whole_process=True))
