"""Segmentation networks of torchvision."""

from __future__ import annotations

from torch import Tensor, nn

from robustseg.models.adapters.library import check_known, define_for_one, import_library, reason
from robustseg.models.errors import ModelError
from robustseg.models.network import Network
from robustseg.models.unused import freeze_unused


class TorchvisionNetwork(Network):
    """A network of ``torchvision.models.segmentation``; the library's checkpoints load unchanged.

    The network resizes its logits to the images itself, with ``align_corners`` off. Images are normalised with
    ImageNet's statistics, as torchvision's own weights expect. torchvision's builders take no further arguments.

    Args:
        num_classes: Number of classes C.
        name: Name of the network, such as ``fcn_resnet50``, ``deeplabv3_resnet101`` or ``lraspp_mobilenet_v3_large``.
        aux_head: Add torchvision's auxiliary head, which is in its own weights; ``lraspp`` has none.
        pretrained: Let torchvision download ImageNet weights for the backbone.

    Raises:
        ModelError: torchvision is not installed, does not know the name, has no such auxiliary head, or cannot
            download.
    """

    library = "torchvision"

    def __init__(
        self,
        num_classes: int,
        name: str = "deeplabv3_resnet50",
        aux_head: bool = True,
        pretrained: bool = False,
    ) -> None:
        super().__init__(num_classes)
        self.name = name
        models = import_library("torchvision.models", "torchvision", type(self).__name__)
        check_known("name", name, models.list_models(module=models.segmentation), "torchvision.models.segmentation")
        if aux_head and name.startswith("lraspp"):
            raise ModelError(f"aux_head = True: {name} has no auxiliary head: set aux_head: false.")
        options = {} if name.startswith("lraspp") else {"aux_loss": aux_head}
        weights = "DEFAULT" if pretrained else None
        try:
            self.module: nn.Module = models.get_model(
                name, weights=None, weights_backbone=weights, num_classes=num_classes, **options
            )
        except Exception as error:  # torch.hub raises urllib's exceptions, and RuntimeError for a wrong hash
            hint = "set pretrained: false, or model.init_weights: FILE for a local file" if pretrained else "see above"
            raise ModelError(f"torchvision could not build {name} ({reason(error)}); {hint}.") from error
        define_for_one(self.module)
        freeze_unused(self)

    @property
    def backbone(self) -> nn.Module:
        """The backbone: ``pretrained`` loads it, and it trains at the optimiser's own learning rate."""
        backbone: nn.Module = self.module.backbone  # type: ignore[assignment]
        return backbone

    def forward(self, x: Tensor) -> Tensor:
        """Return B×C×H×W logits for normalised B×3×H×W images."""
        return self.forward_with_aux(x)[0]

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return B×C×H×W logits and the auxiliary head's, or None; see :meth:`Network.forward_with_aux`."""
        output = self.module(x)
        return output["out"], output.get("aux")
