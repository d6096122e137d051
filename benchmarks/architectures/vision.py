"""Networks of torchvision and timm."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional

from benchmarks.architectures.architecture import CLASSES, Architecture, Builder, classes, named


def load_torchvision() -> None:
    """Import torchvision; in Python where its compiled operators do not fit this build of torch."""
    if "torchvision" in sys.modules:
        return
    with patch.object(torch.library, "register_fake", lambda *_args, **_options: lambda function: function):
        import torchvision
    if not torchvision.extension._has_ops():
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl("nms", _suppressed, "CPU")
        _LIBRARIES.append(library)
        torchvision.ops.boxes._assert_has_ops = lambda: None


_LIBRARIES: list[torch.library.Library] = []  # an operator lives as long as its library


def _suppressed(boxes: torch.Tensor, scores: torch.Tensor, largest_overlap: float) -> torch.Tensor:
    """Return the indices of the boxes that overlap with none of higher score, best first."""
    from torchvision.ops import box_iou

    overlaps = box_iou(boxes, boxes)
    left = scores.argsort(descending=True)
    chosen: list[int] = []
    while len(left):
        best = int(left[0])
        chosen.append(best)
        left = left[overlaps[best, left] <= largest_overlap]
        left = left[left != best]
    return torch.tensor(chosen, dtype=torch.long)


def torchvision_net(name: str, size: int = 64, batch: int = 4, **options: Any) -> Architecture:
    load_torchvision()
    from torchvision import models

    model = models.get_model(name, weights=None, num_classes=CLASSES, **options)
    return Architecture(model, (torch.randn(batch, 3, size, size),), classes(batch))


def inception_like(name: str, size: int) -> Architecture:
    architecture = torchvision_net(name, size, aux_logits=True, init_weights=True)
    return Architecture(
        architecture.model, architecture.inputs, architecture.target,
        lambda output, target: torch.stack([functional.cross_entropy(logits, target) for logits in output]).sum(),
    )  # fmt: skip


def segmentation_net(name: str) -> Architecture:
    load_torchvision()
    from torchvision.models import segmentation

    model = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=5)
    return Architecture(
        model, (torch.randn(2, 3, 64, 64),), torch.randint(0, 5, (2, 64, 64)),
        lambda output, target: functional.cross_entropy(output["out"], target),
    )  # fmt: skip


class Detector(nn.Module):
    """A detection network with its targets, so that it takes images alone and returns its losses."""

    def __init__(self, name: str) -> None:
        super().__init__()
        load_torchvision()
        from torchvision.models import detection

        self.net = getattr(detection, name)(
            weights=None, weights_backbone=None, num_classes=5, min_size=64, max_size=96
        )

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the losses."""
        boxes = torch.tensor([[4.0, 4.0, 40.0, 40.0], [10.0, 20.0, 60.0, 56.0]])
        labels = torch.tensor([1, 2])
        losses: dict[str, torch.Tensor] = self.net(list(images), [{"boxes": boxes, "labels": labels} for _ in images])
        return losses


def detection_net(name: str) -> Architecture:
    return Architecture(
        Detector(name),
        (torch.rand(2, 3, 64, 64),),
        torch.zeros(2),
        lambda losses, _target: torch.stack([*losses.values()]).sum(),
    )


def timm_net(name: str, size: int = 64, batch: int = 4, **options: Any) -> Architecture:
    load_torchvision()
    import timm

    model = timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)
    return Architecture(model, (torch.randn(batch, 3, size, size),), classes(batch))


TORCHVISION: Mapping[str, Builder] = {
    **named(
        torchvision_net,
        [
            "resnet18",
            "resnet34",
            "resnet50",
            "resnet101",
            "resnet152",
            "resnext50_32x4d",
            "wide_resnet50_2",
            "densenet121",
            "squeezenet1_1",
            "mobilenet_v2",
            "mobilenet_v3_small",
            "shufflenet_v2_x1_0",
            "mnasnet0_5",
            "efficientnet_b0",
            "regnet_y_400mf",
            "convnext_tiny",
            "vgg11_bn",
        ],
    ),
    **named(torchvision_net, ["vit_b_32"], image_size=64),
    "alexnet": partial(torchvision_net, "alexnet", 96),
    "swin_t": partial(torchvision_net, "swin_t", 64, 2),
    "inception_v3": partial(inception_like, "inception_v3", 192),
    **named(segmentation_net, ["fcn_resnet50", "deeplabv3_resnet50", "lraspp_mobilenet_v3_large"]),
    **named(detection_net, ["fasterrcnn_mobilenet_v3_large_320_fpn", "retinanet_resnet50_fpn"]),
}

TIMM: Mapping[str, Builder] = {
    **named(
        timm_net,
        [
            "seresnet18",
            "seresnet50",
            "skresnet18",
            "nfnet_l0",
            "mobilevit_xxs",
            "repvgg_a0",
            "ghostnet_100",
            "poolformer_s12",
        ],
    ),
    **named(
        timm_net,
        ["cait_xxs24_224", "eva02_tiny_patch14_224", "mixer_s32_224", "resmlp_12_224", "deit_tiny_patch16_224"],
        size=224,
        img_size=224,
        batch=2,
    ),
    **named(timm_net, ["xcit_nano_12_p16_224"]),
    "efficientformer_l1": partial(timm_net, "efficientformer_l1", 224, 2),
    "maxvit_pico_rw_256": partial(timm_net, "maxvit_pico_rw_256", 64, 2, img_size=64),
}
