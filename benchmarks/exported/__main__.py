"""Architectures of torchvision, timm and transformers as exported programs, against the eager models.

`python -m benchmarks.exported [NAME …] [--results FILE]`. Each model is exported in training and in evaluation mode,
written by torch.export.save, read by this project's reader and run by its interpreter. Compared with the eager model:
outputs and gradients of all parameters (the largest difference; 0 means equal to the last bit), and the report's rows
of layers and parameters. The packages are those of the extras' constraints; models are small, with random weights.
"""

from __future__ import annotations

import argparse
import io
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from gradinspect import inspect
from gradinspect.contracts.problems import InspectionError, ProblemError
from gradinspect.engine.network.exported.model import ExportedModel
from gradinspect.intake.exported import check_exported, read_program

Build = Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]
VISION = {
    "alexnet": 96, "resnet18": 64, "resnet50": 64, "resnext50_32x4d": 64, "densenet121": 64, "vgg11_bn": 64,
    "mobilenet_v2": 64, "mobilenet_v3_small": 64, "shufflenet_v2_x1_0": 64, "squeezenet1_1": 64, "efficientnet_b0": 64,
    "regnet_y_400mf": 64, "mnasnet0_5": 64, "googlenet": 96, "inception_v3": 96, "convnext_tiny": 64, "swin_t": 64,
}  # fmt: skip
TIMM = {
    "vit_tiny_patch16_224": {"img_size": 64}, "deit_tiny_patch16_224": {"img_size": 64}, "mixer_s32_224": {},
    "poolformer_s12": {}, "cait_xxs24_224": {"img_size": 64}, "pit_ti_224": {}, "levit_128s": {},
    "xcit_nano_12_p16_224": {"img_size": 64}, "mobilevit_xxs": {}, "edgenext_xx_small": {}, "ghostnet_100": {},
    "repvgg_a0": {}, "tinynet_e": {}, "convmixer_768_32": {"depth": 4}, "efficientformer_l1": {}, "mobileone_s0": {},
    "gernet_s": {}, "skresnet18": {},
}  # fmt: skip
SIZES = {
    "mixer_s32_224": 224, "pit_ti_224": 224, "levit_128s": 224, "efficientformer_l1": 224,
}  # fmt: skip
TOKENS = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertForSequenceClassification", {**TOKENS, "intermediate_size": 64}),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", {**TOKENS, "intermediate_size": 64}),
    "electra": ("ElectraConfig", "ElectraForSequenceClassification", {**TOKENS, "intermediate_size": 64}),
    "albert": ("AlbertConfig", "AlbertForMaskedLM", {**TOKENS, "intermediate_size": 64, "embedding_size": 16}),
    "distilbert": ("DistilBertConfig", "DistilBertForMaskedLM", {"vocab_size": 120, "dim": 32, "n_layers": 2,
                   "n_heads": 4, "hidden_dim": 64}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"vocab_size": 120, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", {**TOKENS, "intermediate_size": 64}),
    "opt": ("OPTConfig", "OPTForCausalLM", {**TOKENS, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    "bloom": ("BloomConfig", "BloomForCausalLM", {"vocab_size": 120, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", {**TOKENS, "intermediate_size": 64, "num_key_value_heads": 2}),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**TOKENS, "intermediate_size": 64, "num_key_value_heads": 2}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {**TOKENS, "intermediate_size": 64, "num_key_value_heads": 2}),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", {**TOKENS, "intermediate_size": 64, "num_key_value_heads": 2,
              "head_dim": 8}),
    "phi": ("PhiConfig", "PhiForCausalLM", {**TOKENS, "intermediate_size": 64}),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", {**TOKENS, "intermediate_size": 64, "num_key_value_heads": 2,
                "num_local_experts": 4}),
    "mamba": ("MambaConfig", "MambaForCausalLM", {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2}),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What one model in one mode gave."""

    name: str
    mode: str
    nodes: int = 0
    operators: int = 0
    outputs: float = 0.0
    gradients: float = 0.0
    rows: str = ""
    layers: int = 0
    seconds: float = 0.0
    refused: str = ""

    def __str__(self) -> str:
        if self.refused:
            return f"| {self.name} | {self.mode} | {self.refused} |||||||"
        cells = (self.name, self.mode, "read", self.nodes, self.operators, f"{self.outputs:.3g}",
                 f"{self.gradients:.3g}", self.layers, self.rows, f"{self.seconds:.2f}")  # fmt: skip
        return f"| {' | '.join(map(str, cells))} |"


def without_compiled_operators() -> None:
    """Define the operators of torchvision that its build for another torch lacks; no model here calls them."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    globals()["_LIBRARY"] = library  # it is unloaded with its last reference


def builders() -> Iterator[tuple[str, Build]]:
    """Yield each architecture's name and how it is built, with its inputs."""
    without_compiled_operators()
    import timm
    import torchvision.models as vision
    import transformers

    for name, size in VISION.items():
        yield f"torchvision:{name}", partial(_image_model, partial(_vision, vision, name), size)
    for name, arguments in TIMM.items():
        make = partial(timm.create_model, name, pretrained=False, num_classes=10, **arguments)
        yield f"timm:{name}", partial(_image_model, make, SIZES.get(name, 64))
    for name, described in CONFIGS.items():
        yield f"transformers:{name}", partial(_text_model, transformers, *described)


def _vision(vision: Any, name: str) -> nn.Module:
    more = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = getattr(vision, name)(weights=None, num_classes=10, **more)
    return model


def _image_model(make: Callable[[], nn.Module], size: int) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    return make(), (torch.randn(2, 3, size, size),)


def _text_model(
    transformers: Any, config: str, model: str, arguments: dict[str, Any]
) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    return _language_model(transformers, config, model, arguments), (torch.randint(0, 120, (2, 12)),)


class FirstOutput(nn.Module):
    """A language model that returns its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return output


class FirstOutputWithoutCache(FirstOutput):
    """An encoder, which takes no `use_cache`."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.model(input_ids=tokens).logits
        return output


def _language_model(transformers: Any, config: str, model: str, arguments: dict[str, Any]) -> nn.Module:
    made = getattr(transformers, config)(**arguments)
    if "Mixtral" in config:
        made._experts_implementation = "eager"
    built = getattr(transformers, model)(made)
    is_decoder = "CausalLM" in model or "LMHead" in model
    return (FirstOutput if is_decoder else FirstOutputWithoutCache)(built)


def compare(name: str, build: Build, mode: str) -> Row:
    """Export one model and compare the two."""
    torch.manual_seed(0)
    try:
        model, inputs = build()
        model.train(mode == "train")
        data = _exported(model, inputs)
    except Exception as error:  # noqa: BLE001  # torch.export has many ways to fail, and each is a row
        return Row(name, mode, refused=f"not exported: {type(error).__name__}: {_line(error)}")
    started = time.perf_counter()
    try:
        facts = check_exported(io.BytesIO(data))
        exported = ExportedModel(read_program(io.BytesIO(data)), data)
        seconds = time.perf_counter() - started
        outputs, gradients = _differences(model, exported, inputs)
        layers, rows = _rows(model, exported, inputs, mode)
    except (InspectionError, ProblemError) as error:
        return Row(name, mode, refused=f"{error.code}: {_line(error)}")
    return Row(name, mode, facts.nodes, len(facts.operators), outputs, gradients, rows, layers, seconds)


def _exported(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(model, inputs), file)
    return file.getvalue()


def _differences(first: nn.Module, second: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[float, float]:
    """Return the largest differences of outputs and of gradients; buffers of the first are restored."""
    state = {key: value.clone() for key, value in first.state_dict().items()}
    results = []
    for model in (first, second):
        torch.manual_seed(3)
        tensors = [leaf for leaf in tree_leaves(model(*inputs)) if isinstance(leaf, torch.Tensor)]
        loss = sum((tensor * torch.linspace(-1, 2, tensor.numel()).view(tensor.shape)).sum() for tensor in tensors)
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        results.append((tensors, dict(model.named_parameters())))
    (outputs, parameters), (others, found) = results
    output = max(_distance(first_, other) for first_, other in zip(outputs, others, strict=True))
    gradient = max(_distance(value.grad, found[name].grad) for name, value in parameters.items())
    for model in (first, second):
        model.zero_grad()
        for key, tensor in model.state_dict().items():
            if key in state:
                tensor.copy_(state[key])
    return output, gradient


def _distance(first: torch.Tensor | None, second: torch.Tensor | None) -> float:
    if first is None or second is None:
        return 0.0 if first is second else float("nan")
    return 0.0 if torch.equal(first, second) else float((first - second).abs().max())


def _rows(first: nn.Module, second: nn.Module, inputs: tuple[torch.Tensor, ...], mode: str) -> tuple[int, str]:
    """Return the number of layer rows, and "equal" or what differs."""
    asked: dict[str, Any] = {"loss": "output_mean", "mode": mode}
    expected, report = inspect(first, inputs, **asked), inspect(second, inputs, **asked)
    differing = []
    for part in ("layers", "parameters"):
        rows, others = getattr(expected, part), getattr(report, part)
        if len(rows) != len(others):
            differing.append(f"{len(others)} instead of {len(rows)} {part}")
            continue
        fields = {
            name for row, other in zip(rows, others, strict=True) for name in type(row).model_fields
            if getattr(row, name) != getattr(other, name)
        }  # fmt: skip
        if fields:
            count = sum(row != other for row, other in zip(rows, others, strict=True))
            differing.append(f"{count} {part}: {', '.join(sorted(fields))}")
    return len(report.layers), "; ".join(differing) or "equal"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160].replace("|", "/")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    head = ["| model | mode | result | nodes | operators | outputs | gradients | layers | rows | seconds to read |",
            "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    lines = list(head)
    print("\n".join(head), flush=True)
    for name, build in builders():
        if options.names and not any(part in name for part in options.names):
            continue
        for mode in ("train", "eval"):
            line = str(compare(name, build, mode))
            print(line, flush=True)
            lines.append(line)
    if options.results is not None:
        options.results.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
