"""Training configuration as the doctor reads it; only the data set is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pytorch_lightning.cli import LightningArgumentParser

from robustseg.config.build import RobustSegCLI
from robustseg.config.messages import Parser
from robustseg.data import SegmentationData

_UNNAMED = {
    # Only the options are parsed; settings that a data configuration leaves open are not required.
    "model.network": {"class_path": "FCN", "init_args": {"backbone": "resnet10t"}},
    "data": {"class_path": "SyntheticScenes"},
}


class Setup(NamedTuple):
    """Resources that a run of the configuration would use."""

    data: dict[str, Any]
    """Class path and arguments of the data set."""
    devices: str | int
    """Processes per node; "auto" for one per GPU, or one process without GPUs."""
    num_nodes: int
    accelerator: str
    root: str
    """Folder of the runs."""

    def processes(self, gpus: int) -> int:
        """Return the number of training processes that Lightning starts on each node.

        Args:
            gpus: GPUs that torch sees.
        """
        if isinstance(self.devices, int):
            return max(1, self.devices)
        return max(1, 0 if self.accelerator == "cpu" else gpus)

    @property
    def num_workers(self) -> int:
        """Number of data workers per training process."""
        return int(self.data.get("init_args", {}).get("num_workers", 0))

    @property
    def batch_bytes(self) -> int | None:
        """Bytes of a training batch from a worker; None if the size of its images is not configured."""
        arguments = self.data.get("init_args", {})
        sizes = [size for size in (arguments.get("crop_size"), arguments.get("image_size")) if size is not None]
        if not sizes:
            return None
        # float32 images with three channels and int64 targets
        return int(arguments.get("batch_size", 1)) * max(int(size[0]) * int(size[1]) for size in sizes) * (3 * 4 + 8)


def read_setup(args: Sequence[str]) -> Setup:
    """Parse arguments and configuration files as ``robustseg train`` does.

    Args:
        args: Arguments of ``robustseg train``.
    """
    config = _ParsedOnly(args).config
    devices = config.trainer.devices
    if isinstance(devices, list):
        devices = len(devices)
    return Setup(
        config.data.as_dict(),
        int(devices) if str(devices).lstrip("-").isdigit() and int(devices) >= 0 else "auto",
        config.trainer.num_nodes,
        str(config.trainer.accelerator),
        str(config.trainer.default_root_dir),
    )


def build_data(data: dict[str, Any]) -> SegmentationData:
    """Build the data set of a configuration.

    Raises:
        ValueError: Its constructor refused an argument.
    """
    parser = Parser(exit_on_error=False)
    parser.add_subclass_arguments(SegmentationData, "data", required=True)
    try:
        built = parser.instantiate_classes(parser.parse_object({"data": data})).data
    except ValueError as error:
        # The parser wraps a constructor's error into a list of the types that it tried.
        cause: BaseException = error
        while isinstance(cause.__cause__, ValueError):
            cause = cause.__cause__
        raise cause from error
    assert isinstance(built, SegmentationData)
    return built


class _ParsedOnly(RobustSegCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.set_defaults(_UNNAMED)

    def before_instantiate_classes(self) -> None:
        """Skip the search for a checkpoint."""

    def _set_seed(self) -> None:
        """Skip the seeding and its message."""

    def instantiate_classes(self) -> None:
        """Build nothing."""
