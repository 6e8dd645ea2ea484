from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _few_threads_and_offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(min(2, threads))
    torch.manual_seed(0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    yield
    torch.set_num_threads(threads)


def randomise_(module: torch.nn.Module) -> torch.nn.Module:
    """Give BatchNorm statistics and weights that differ per channel, so that swapped tensors show."""
    for child in module.modules():
        if isinstance(child, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(child.weight, 0.5, 1.5)
            torch.nn.init.normal_(child.bias, 0.0, 0.1)
            child.running_mean.normal_(0.0, 0.1)
            child.running_var.uniform_(0.5, 1.5)
    return module


@pytest.fixture
def randomise():
    return randomise_
