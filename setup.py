"""Build step that puts ``configs`` into the package, as ``robustseg/configs``; all else is in setup.cfg."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies the configurations beside the modules; an editable installation finds those of the repository."""

    def run(self) -> None:
        """Build the modules, then copy."""
        super().run()
        if not self.editable_mode:
            built = Path(self.build_lib, "robustseg", "configs")
            shutil.rmtree(built, ignore_errors=True)  # what an earlier build left there
            shutil.copytree("configs", built)


setup(cmdclass={"build_py": BuildWithConfigs})
