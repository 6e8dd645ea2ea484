"""The device under test: its facts, its memory, its random states and the synchronisations of a call."""

from __future__ import annotations

import gc
import platform
import subprocess
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from gpu_table import Absent
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Precision = str
"""``"fp32"``, ``"tf32"``, ``"bf16"`` or ``"fp16"``; the last two by autocast."""
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Device:
    """A CUDA device, or the CPU in its place.

    Args:
        name: ``"cuda"``, ``"cuda:1"`` or ``"cpu"``.
    """

    def __init__(self, name: str):
        self.torch = torch.device(name)
        self.cuda = self.torch.type == "cuda"
        if self.cuda:  # with its index, without which set_device refuses it
            self.torch = torch.device("cuda", self.torch.index or 0)
            torch.cuda.set_device(self.torch)

    def wait(self) -> None:
        """Wait until all work is done."""
        if self.cuda:
            torch.cuda.synchronize(self.torch)

    def lost(self) -> str:
        """Return why no further work is possible, or nothing: after an illegal access every call fails."""
        gc.collect()
        try:
            self.wait()
            if self.cuda:
                torch.cuda.empty_cache()
        except RuntimeError as error:
            return f"the device is lost: {error}"
        return ""

    def facts(self) -> list[tuple[str, str]]:
        """Return name and value of everything that figures may depend on."""
        facts = [("python, torch", f"{platform.python_version()}, {torch.__version__}")]
        if not self.cuda:
            return [*facts, ("device", f"CPU {platform.machine()}, {torch.get_num_threads()} threads")]
        properties = torch.cuda.get_device_properties(self.torch)
        memory = f"{properties.total_memory / 2**30:.1f} GiB, {properties.multi_processor_count} multiprocessors"
        return [
            *facts,
            ("device", f"{properties.name}, {memory}, compute capability {properties.major}.{properties.minor}"),
            ("driver", f"{_driver()}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"),
        ]

    def allocated(self) -> int:
        """Return the bytes of live tensors on the device; 0 on the CPU, which does not count them."""
        gc.collect()
        self.wait()
        return torch.cuda.memory_allocated(self.torch) if self.cuda else 0

    def random_states(self) -> list[Tensor]:
        """Return the states of torch's global generators, the CPU's and those of all GPUs."""
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if self.cuda else ())]

    def synchronisations(self, run: Callable[[], object]) -> int:
        """Count how often the host waits for the device during ``run``: reads of values on the CPU, which has none."""
        if not self.cuda:
            with _Reads() as reads:
                run()
            return reads.count
        self.wait()
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                run()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        return sum("called a synchronizing" in str(each.message) for each in caught)

    def precision(self, name: Precision) -> AbstractContextManager[object]:
        """Return a context of a precision.

        Raises:
            Absent: The device does not have it.
        """
        if name not in HALVES:
            return float32(tf32=name == "tf32")
        if self.cuda and name == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise Absent("this GPU has no bf16")
        return torch.autocast(self.torch.type, HALVES[name])

    def other_kernels(self) -> AbstractContextManager[object]:
        """Return a context that makes the CPU compute with other kernels, in place of a second device."""
        return nullcontext() if self.cuda else torch.backends.mkldnn.flags(enabled=False)


class _Reads(TorchDispatchMode):
    """Counter of the operations that give values of tensors to Python."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


@contextmanager
def float32(tf32: bool = False) -> Iterator[None]:
    """Compute in float32 as it is, or with products in TF32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextmanager
def deterministic() -> Iterator[None]:
    """Set what ``trainer.deterministic: true`` sets, for the duration."""
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.benchmark, cudnn.deterministic
    torch.use_deterministic_algorithms(True)
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.benchmark, cudnn.deterministic = before[1:]


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return _output(command).partition("\n")[0] or "unknown"


def commit() -> str:
    """Return the commit of the source, with a plus sign if files differ from it."""
    here = ["git", "-C", str(Path(__file__).resolve().parent)]
    found = _output([*here, "rev-parse", "--short", "HEAD"])
    changed = _output([*here, "status", "--porcelain", "--untracked-files=no"])
    return (found + "+" * bool(changed)) if found else "unknown"


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
