"""Build step that copies ``configs`` into the package as ``robustseg/configs``; setup.cfg has all other settings."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Build command that copies the configurations beside the modules; editable installations use the repository's."""

    def run(self) -> None:
        """Build the modules, then copy the configurations."""
        super().run()
        if not self.editable_mode:
            built = Path(self.build_lib, "robustseg", "configs")
            shutil.rmtree(built, ignore_errors=True)  # files of an earlier build
            shutil.copytree("configs", built)


setup(cmdclass={"build_py": BuildWithConfigs})
