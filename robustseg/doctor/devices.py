"""Devices that torch can compute on, compared with those of the configuration."""

from __future__ import annotations

import glob
from collections.abc import Iterator

import torch

from robustseg.doctor.configuration import Setup
from robustseg.doctor.findings import Finding, caution, counted, mebibytes, ok, problem

_INSTALL = "https://pytorch.org/get-started/locally"


def check_devices(setup: Setup | None) -> Iterator[Finding]:
    """Check each device with an actual computation.

    Args:
        setup: Resources of the run, if a configuration was given.
    """
    yield ok("CPU", counted(torch.get_num_threads(), "thread"))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(count):
        yield _gpu(index)
    if count == 0:
        yield _no_gpu(torch.version.cuda or torch.version.hip, len(glob.glob("/dev/nvidia[0-9]*")))
    if setup is not None:
        yield from compare_devices(setup, count, torch.backends.mps.is_available())


def compare_devices(setup: Setup, gpus: int, mps: bool) -> Iterator[Finding]:
    """Compare the devices of a configuration with the available ones.

    Args:
        setup: Resources of the run.
        gpus: Number of GPUs that torch can use.
        mps: True if Apple's GPU is available.
    """
    name, asked = "trainer.accelerator", setup.accelerator
    if asked == "mps" or (asked == "gpu" and mps and not gpus):
        yield problem(
            name,
            f"{asked}: Apple's GPU {'lacks the float64 that exact budgets need' if mps else 'is not here'}.",
            "--trainer.accelerator cpu",
        )
    elif asked in ("gpu", "cuda") and gpus == 0:
        yield problem(
            name,
            f"{asked}, but torch can use no GPU here: training would not start.",
            "--trainer.accelerator cpu, or a machine or job with a GPU.",
        )
    elif asked in ("gpu", "cuda", "auto") and gpus and setup.processes(gpus) > gpus:
        yield problem(
            "trainer.devices",
            f"{setup.devices}, but torch can use {counted(gpus, 'GPU')} here: training would not start.",
            f"--trainer.devices {gpus}",
        )
    else:
        yield ok(name, f"{asked} is here")


def _gpu(index: int) -> Finding:
    name, device = f"GPU {index}", torch.device("cuda", index)
    try:
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        ones = torch.ones(1, 8, 16, 16, device=device)
        result = float(torch.nn.functional.conv2d(ones, ones).sum())
    except RuntimeError as error:
        return problem(
            name,
            f"computes nothing: {str(error).strip().splitlines()[0]}",
            f"If memory is short, another process holds it (nvidia-smi); else install its torch build: {_INSTALL}.",
        )
    facts = f"{properties.name}, {mebibytes(free)} of {mebibytes(total)} free"
    if result != ones.numel():
        return problem(name, f"{facts}; a convolution is {result}, not {ones.numel()}.", "Trust no result of it.")
    if free < total / 2:
        return caution(
            name,
            f"{facts}: another process uses it.",
            "nvidia-smi shows which; end it, or choose another GPU with CUDA_VISIBLE_DEVICES.",
        )
    return ok(name, f"{facts}; a convolution is right")


def _no_gpu(built_for: str | None, nodes: int) -> Finding:
    """Explain why torch sees no GPU.

    Args:
        built_for: Version of CUDA or HIP that torch was built for.
        nodes: Number of device files of NVIDIA's driver.
    """
    if not nodes:
        return ok("GPU", "None: this machine trains on the CPU.")
    here = f"This machine has {counted(nodes, 'GPU')}"
    if built_for is None:
        return caution(
            "GPU", f"{here}, but this torch is a build for the CPU.", f"Install a build with CUDA: {_INSTALL}."
        )
    return problem(
        "GPU",
        f"{here}, but torch (CUDA {built_for}) can use none.",
        "Unset CUDA_VISIBLE_DEVICES if it is empty; else the driver is too old for this CUDA: update it, or install a "
        "torch build for an older CUDA.",
    )
