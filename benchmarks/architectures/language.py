"""Networks of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.architectures.architecture import CLASSES, Architecture, Builder, classes
from benchmarks.architectures.vision import load_torchvision


class Logits(nn.Module):
    """A network of transformers that returns its logits alone."""

    def __init__(self, net: nn.Module, field: str = "logits") -> None:
        super().__init__()
        self.net = net
        self.field = field

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Compute the logits."""
        logits: torch.Tensor = getattr(self.net(*inputs), self.field)
        return logits


WORDS = 200


SMALL = {"hidden_size": 64, "num_hidden_layers": 4, "vocab_size": WORDS}


HEADS = {"num_attention_heads": 4, "intermediate_size": 128}


def language_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), target.flatten())


def language_net(kind: str, **options: Any) -> Architecture:
    load_torchvision()
    import transformers

    config = getattr(transformers, f"{kind.partition('For')[0].removesuffix('LMHeadModel')}Config")(**options)
    tokens = torch.randint(0, WORDS, (4, 24))
    return Architecture(
        Logits(getattr(transformers, kind)(config)), (tokens,), torch.randint(0, WORDS, (4, 24)), language_loss
    )


def t5() -> Architecture:
    load_torchvision()
    import transformers

    config = transformers.T5Config(
        vocab_size=WORDS, d_model=64, d_kv=16, d_ff=128, num_layers=3, num_heads=4, decoder_start_token_id=0
    )
    net = transformers.T5ForConditionalGeneration(config)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.net(input_ids=source, decoder_input_ids=target).logits
            return logits

    tokens = torch.randint(0, WORDS, (4, 16))
    return Architecture(Both(), (tokens, tokens), torch.randint(0, WORDS, (4, 16)), language_loss)


def whisper() -> Architecture:
    load_torchvision()
    import transformers

    config = transformers.WhisperConfig(
        vocab_size=WORDS, d_model=64, encoder_layers=3, decoder_layers=3, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, num_mel_bins=20, max_source_positions=50,
        max_target_positions=40, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    net = transformers.WhisperForConditionalGeneration(config)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, sound: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.net(input_features=sound, decoder_input_ids=tokens).logits
            return logits

    return Architecture(
        Both(), (torch.randn(3, 20, 100), torch.randint(0, WORDS, (3, 12))), torch.randint(0, WORDS, (3, 12)),
        language_loss,
    )  # fmt: skip


def wav2vec2() -> Architecture:
    load_torchvision()
    import transformers

    config = transformers.Wav2Vec2Config(
        **(SMALL | HEADS), conv_dim=(32, 32, 32), conv_stride=(5, 2, 2), conv_kernel=(10, 3, 3),
        num_feat_extract_layers=3, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        apply_spec_augment=False,
    )  # fmt: skip
    net = transformers.Wav2Vec2ForSequenceClassification(config)
    return Architecture(Logits(net), (torch.randn(4, 1600),), classes(4, 2))


def image_net(kind: str, **options: Any) -> Architecture:
    load_torchvision()
    import transformers

    config = getattr(transformers, f"{kind.partition('For')[0]}Config")(num_labels=CLASSES, **options)
    return Architecture(Logits(getattr(transformers, kind)(config)), (torch.randn(4, 3, 64, 64),), classes(4))


TRANSFORMERS: Mapping[str, Builder] = {
    "gpt2": partial(language_net, "GPT2LMHeadModel", vocab_size=WORDS, n_embd=64, n_layer=4, n_head=4, n_positions=64),
    "bert": partial(language_net, "BertForMaskedLM", **SMALL, **HEADS),
    "albert": partial(language_net, "AlbertForMaskedLM", **SMALL, **HEADS, embedding_size=32),
    "llama": partial(language_net, "LlamaForCausalLM", **SMALL, **HEADS),
    "mamba": partial(language_net, "MambaForCausalLM", **SMALL),
    "rwkv": partial(language_net, "RwkvForCausalLM", **SMALL, attention_hidden_size=64, context_length=64),
    "t5": t5,
    "whisper": whisper,
    "wav2vec2": wav2vec2,
    "vit": partial(image_net, "ViTForImageClassification", hidden_size=64, num_hidden_layers=4, **HEADS, image_size=64),
}
