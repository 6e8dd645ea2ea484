"""The command line as a module: ``python -m robustseg``, also for launchers such as ``torchrun -m robustseg``."""

import sys

from robustseg.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
