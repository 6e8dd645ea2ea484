"""Which devices there are, and whether they compute what they should."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn import functional

from robustseg.doctor.findings import Finding, caution, counted, mebibytes, ok, problem

# float32 on two devices differs by rounding and by the algorithm (1e-6 is usual); TF32 by 1e-3
TOLERANCE = 1e-4
# 8 bits of mantissa, through two layers and back
TOLERANCE_BF16 = 0.1


def check_devices() -> Iterator[Finding]:
    """Each device with its facts and a convolution, forward and backward, that was really computed on it."""
    reference = convolution(torch.device("cpu"), torch.float64)
    yield from _computed("CPU", torch.device("cpu"), reference, counted(torch.get_num_threads(), "thread"))
    if torch.cuda.is_available():
        driver = _driver()
        for index in range(torch.cuda.device_count()):
            yield from _gpu(index, driver, reference)
    else:
        yield _no_gpu(
            torch.version.cuda or torch.version.hip, glob.glob("/dev/nvidia[0-9]*"), torch.cuda.device_count()
        )
    if torch.backends.mps.is_available():
        yield caution(
            "MPS",
            "Apple's GPU is there, but lacks the float64 that exact budgets need.",
            "robustseg trains on the CPU by itself; --trainer.accelerator mps only if no attack is configured.",
        )
        yield from _computed("MPS", torch.device("mps"), reference, "Apple's GPU")


def convolution(device: torch.device, dtype: torch.dtype, autocast: bool = False) -> list[torch.Tensor]:
    """Result and gradients of two convolutions, computed on a device, as float64 on the CPU.

    Args:
        device: Where.
        dtype: Of the numbers; the same ones for every type.
        autocast: Let the device compute in bfloat16.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 8, 32, 32), (16, 8, 3, 3), (8, 16, 3, 3))
    # values of float32, so that all start from the same ones
    leaves = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]
    images, first, second = leaves
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        features = functional.gelu(functional.conv2d(images, first, padding=1) / 8)
        result = functional.conv2d(features, second, stride=2) / 8
    gradients = torch.autograd.grad(result.to(dtype).square().sum(), leaves)
    return [tensor.detach().cpu().double() for tensor in (result, *gradients)]


def deviation(results: list[torch.Tensor], reference: list[torch.Tensor]) -> float:
    """Largest difference, relative to each tensor's largest value; infinity where one is not finite."""
    worst = 0.0
    for result, expected in zip(results, reference, strict=True):
        difference = float((result - expected).abs().max() / expected.abs().max())
        worst = max(worst, difference if difference == difference else float("inf"))
    return worst


def _computed(name: str, device: torch.device, reference: list[torch.Tensor], facts: str) -> Iterator[Finding]:
    """Compute on a device and compare."""
    cudnn = torch.backends.cudnn
    exact = cudnn.flags(cudnn.enabled, cudnn.benchmark, cudnn.benchmark_limit, cudnn.deterministic, allow_tf32=False)
    try:
        with exact:
            error = deviation(convolution(device, torch.float32), reference)
        error_bf16 = deviation(convolution(device, torch.float32, autocast=True), reference)
    except (RuntimeError, NotImplementedError) as failure:
        message = str(failure).strip().splitlines()[0]
        yield problem(
            name,
            f"{facts}; a convolution failed: {message}",
            "If memory is short, another process holds it (nvidia-smi); else install the torch build for this device: "
            "https://pytorch.org/get-started/locally.",
        )
        return
    if error > TOLERANCE:
        yield problem(
            name,
            f"{facts}; a float32 convolution and its gradient are off by {error:.1e} (allowed {TOLERANCE:.0e}).",
            "Trust no result of this device: look for an overclocked or failing one (nvidia-smi -q -d ECC), or a build "
            "of torch for another.",
            error=error,
        )
        return
    text = f"{facts}; a float32 convolution and its gradient are right within {error:.0e}"
    if error_bf16 > TOLERANCE_BF16:
        yield caution(name, f"{text}, but bf16 is off by {error_bf16:.1e}.", "Do not use --trainer.precision bf16-*.")
    else:
        yield ok(name, f"{text}, in bf16 within {error_bf16:.0e}.", error=error, error_bf16=error_bf16)


def _gpu(index: int, driver: str, reference: list[torch.Tensor]) -> Iterator[Finding]:
    name, device = f"GPU {index}", torch.device("cuda", index)
    properties = torch.cuda.get_device_properties(index)
    capability = (properties.major, properties.minor)
    if not torch.version.hip and not supported(capability, torch.cuda.get_arch_list()):
        yield problem(
            name,
            f"{properties.name} has compute capability {capability[0]}.{capability[1]}, and this torch was built for "
            f"{' '.join(torch.cuda.get_arch_list())}.",
            "Install a torch build that covers it: https://pytorch.org/get-started/locally.",
        )
        return
    free, total = torch.cuda.mem_get_info(index)
    facts = (
        f"{properties.name}, {mebibytes(free)} of {mebibytes(total)} free, compute capability {capability[0]}."
        f"{capability[1]}, driver {driver}"
    )
    yield from _computed(name, device, reference, facts)
    if free < total / 2:
        yield caution(
            f"{name} memory",
            f"Only {mebibytes(free)} of {mebibytes(total)} are free: another process uses this GPU.",
            "nvidia-smi shows which; end it, or choose another GPU with CUDA_VISIBLE_DEVICES.",
        )
    with torch.cuda.device(index):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if not bf16:
        yield caution(
            f"{name} bf16",
            "No bf16 in hardware: --trainer.precision bf16-mixed would be slow.",
            "--trainer.precision 32-true, or 16-mixed.",
        )


def supported(capability: tuple[int, int], built_for: list[str]) -> bool:
    """Whether a build has machine code of a GPU's major version, or an intermediate form that it can translate.

    Args:
        capability: Major and minor compute capability.
        built_for: As ``torch.cuda.get_arch_list()`` has it: ``sm_90``, ``compute_120``.
    """
    for text in built_for:
        parts = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", text)
        if parts is None:
            continue
        major, minor = int(parts[2]), int(parts[3])
        exact, family = parts[4] == "a", parts[1] == "sm" or parts[4] == "f"
        if (major, minor) == capability or (not exact and (major, minor) <= capability and not family):
            return True
        if not exact and family and major == capability[0] and minor <= capability[1]:
            return True
    return False


def _no_gpu(built_for: str | None, nodes: list[str], count: int) -> Finding:
    """Why torch sees no GPU.

    Args:
        built_for: Version of CUDA or HIP that torch was built for.
        nodes: Device files of NVIDIA's driver.
        count: GPUs that torch counts.
    """
    if not nodes:
        return ok("GPU", "None: this machine trains on the CPU.")
    if built_for is None:
        return caution(
            "GPU",
            f"This machine has {counted(len(nodes), 'GPU')}, but this torch is a build for the CPU.",
            "Install a build with CUDA: https://pytorch.org/get-started/locally.",
        )
    return problem(
        "GPU",
        f"This machine has {counted(len(nodes), 'GPU')}, but torch (CUDA {built_for}) can use none; it "
        f"counts {count}, the driver is {_driver()}.",
        "Unset CUDA_VISIBLE_DEVICES if it is empty; else the driver is too old for this CUDA: update it, or install a "
        "torch build for an older CUDA.",
    )


def _driver() -> str:
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "unknown"
    found = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", text)
    return found[1] if found else "unknown"
