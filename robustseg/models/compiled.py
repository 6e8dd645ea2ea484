"""Compilation of a model's forward passes by torch.compile, with one graph for each of their uses."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.fx.experimental._config as shapes
from torch import Tensor, nn

from robustseg.models.errors import ModelError

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
Pass = Callable[[Any, Tensor, bool], tuple[Tensor, Tensor | None]]
"""A forward pass: the model, the images, and whether auxiliary logits are wanted."""

_MISSING = ("compiler", "triton", "ninja")
"""Words in the message of a backend that lacks a tool of the machine."""


@dataclass(frozen=True)
class Compile:
    """Settings of torch.compile for a model.

    The number of images is symbolic in any case: an attack whose images leave early needs no other graph.

    Args:
        mode: Mode of the backend ``inductor``. Those with CUDA graphs (``reduce-overhead``, ``max-autotune``) keep
            memory for each number of images.
        backend: Backend of torch.compile.
        dynamic: Heights and widths are symbolic as well; null from their second size on, false never, so that each
            size has graphs of its own.

    Raises:
        ModelError: There is no such mode or backend, or the backend has no modes.
    """

    mode: CompileMode = "default"
    backend: str = "inductor"
    dynamic: bool | None = None

    def __post_init__(self) -> None:
        modes = CompileMode.__args__  # type: ignore[attr-defined]
        if self.mode not in modes:
            raise ModelError(f"model.compile.mode = {self.mode!r}: use one of {', '.join(modes)}.")
        if self.mode != "default" and self.backend != "inductor":
            raise ModelError(
                f"model.compile.mode = {self.mode} is inductor's, and backend = {self.backend!r}: drop one."
            )
        if isinstance(self.backend, str) and self.backend not in torch._dynamo.list_backends(exclude_tags=()):
            shown = ", ".join([*torch._dynamo.list_backends(), "eager", "aot_eager"])
            raise ModelError(f"model.compile.backend = {self.backend!r} is none of {shown}.")

    def function(self, run: Pass) -> Pass:
        """Return the compiled function."""
        mode = None if self.mode == "default" else self.mode
        return cast(Pass, torch.compile(run, backend=self.backend, mode=mode, dynamic=self.dynamic))

    def describe(self) -> dict[str, Any]:
        """Return the settings as plain values, for the record of a result."""
        return {"mode": self.mode, "backend": str(self.backend), "dynamic": self.dynamic}

    @property
    def records_cuda_graphs(self) -> bool:
        """True if results of one call may be overwritten by the next."""
        return self.mode in ("reduce-overhead", "max-autotune")


def network_in_compiled(module: nn.Module) -> nn.Module | None:
    """Return the module that ``torch.compile`` wrapped; None for any other module. Does not import the compiler."""
    return module._modules["_orig_mod"] if "dynamo_ctx" in vars(module) and "_orig_mod" in module._modules else None


class AsGiven:
    """Settings of a module that the user passed through torch.compile.

    Args:
        module: What ``torch.compile`` returned.
    """

    def __init__(self, module: nn.Module):
        self._context: Any = module.dynamo_ctx
        self.records_cuda_graphs = True  # its mode is not known

    def function(self, run: Pass) -> Pass:
        """Return the compiled function."""
        return cast(Pass, self._context(run))

    def describe(self) -> dict[str, Any]:
        """Return what is known of the settings; see :meth:`Compile.describe`."""
        return {"by": "torch.compile"}

    def __deepcopy__(self, memo: object) -> AsGiven:
        return self


class Compiled:
    """The compiled forward passes of one model, with one graph each for attacks, updates and forwards without gradient.

    What would cost a further graph is settled before the call: parameters are frozen where no gradient is computed,
    whoever calls; the layout is the same, and the images are no part of others; their number is symbolic, one included.
    Copies and pickles hold the settings only, and are compiled anew. Nothing of it is in the state dict.

    Args:
        settings: Settings of torch.compile.
        name: Name of the network, for messages.
    """

    def __init__(self, settings: Compile | AsGiven, name: str):
        self.settings = settings
        self.name = name
        self._function: Pass | None = None

    def __reduce__(self) -> tuple[type[Compiled], tuple[Compile | AsGiven, str]]:
        return Compiled, (self.settings, self.name)

    def __call__(self, run: Pass, model: nn.Module, images: Tensor, with_aux: bool) -> tuple[Tensor, Tensor | None]:
        """Run a forward pass.

        Args:
            run: The pass; the same one in each call.
            model: Its first argument.
            images: B×3×H×W, in the layout that they will always have.
            with_aux: Whether auxiliary logits are wanted.

        Raises:
            ModelError: It cannot be compiled.
        """
        if self._function is None:
            self._function = self.settings.function(_with_own_code(run))
        grad = torch.is_grad_enabled() and (
            images.requires_grad or any(parameter.requires_grad for parameter in model.parameters())
        )
        if images.is_inference():
            with torch.inference_mode(False):
                images = images.clone()
        if images._is_view():  # a part of other images, whose number would be part of the graph
            images = images.clone()
        torch._dynamo.maybe_mark_dynamic(images, 0)
        kept = grad and self.settings.records_cuda_graphs and images.is_cuda
        if kept and images.requires_grad:
            images = images.clone()
            images.register_hook(torch.clone)  # type: ignore[no-untyped-call]
        try:
            with torch.inference_mode(False), nullcontext() if grad else _without_gradient(model), _one_is_a_batch():
                logits, aux = self._function(model, images, with_aux)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise self._refusal(error) from error
        if self.settings.records_cuda_graphs and images.is_cuda:
            logits, aux = logits.clone(), None if aux is None else aux.clone()
        return logits, aux

    def _refusal(self, error: Exception) -> ModelError:
        text = str(error).strip()
        lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
        shown = next((line for line in lines if "Error" in line or "InvalidCxxCompiler" in line), lines[0])[:300]
        if any(word in text.lower() for word in _MISSING):
            remedy = "install what is missing (a C++ compiler for the CPU, triton for GPUs)"
        else:
            remedy = "see it with TORCH_LOGS=dynamo"
        return ModelError(
            f"model.compile: {self.name} cannot be compiled here ({shown.rstrip('.')}): leave model.compile out, which "
            f"computes the same, or {remedy}."
        )


def _with_own_code(run: Pass) -> Pass:
    """Return a function whose graphs do not count among those of other models, which torch limits in their number."""
    assert isinstance(run, types.FunctionType)
    return types.FunctionType(run.__code__.replace(), run.__globals__, run.__name__, run.__defaults__, run.__closure__)


@contextmanager
def _without_gradient(model: nn.Module) -> Iterator[None]:
    """Freeze parameters within the block, as an attack does: one graph then serves attacks and validation."""
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.is_leaf]
    for parameter in frozen:
        parameter.requires_grad = False
    try:
        with torch.no_grad():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad = True


def _one_is_a_batch() -> Any:
    """Let a symbolic number of images be one as well; torch before 2.7 compiles a batch of one by itself."""
    settings: Any = shapes  # torch adds patch() at run time
    return settings.patch(backed_size_oblivious=True) if hasattr(shapes, "backed_size_oblivious") else nullcontext()
