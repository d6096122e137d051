"""A small character transformer as a TorchScript file, with a real batch of text: a typical upload.

Run it to write `transformer.pt` and `transformer.safetensors` into the current folder. The model is not
trained yet.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

TEXT = Path(__file__).parents[1] / "LICENSE"
WIDTH, HEADS, BLOCKS, TIME = 64, 4, 3, 64


class CausalAttention(nn.Module):
    """Causal self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, width)
        batch, time, width = x.shape
        q, k, v = self.qkv(x).view(batch, time, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)  # (batch, head, time, width / heads)
        output: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, time, width))
        return output


class Block(nn.Module):
    """Attention and a two-layer MLP, each after a LayerNorm and inside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        output: Tensor = x + self.mlp(self.norm2(x))
        return output


class CharacterModel(nn.Module):
    """Logits of the next character, from characters."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(characters, WIDTH)
        self.positions = nn.Embedding(TIME, WIDTH)
        self.blocks = nn.ModuleList([Block(WIDTH, HEADS) for _ in range(BLOCKS)])
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, characters)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:  # (batch, time) → (batch, time, characters)
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        output: Tensor = self.head(self.norm(x))
        return output


def write_model_and_batch(folder: Path, *, samples: int = 32) -> tuple[Path, Path]:
    """Write the scripted model, and `x` and `y` (samples, time): characters, and the next character of each."""
    text = TEXT.read_text(encoding="utf-8")
    alphabet = {character: index for index, character in enumerate(sorted(set(text)))}
    stream = torch.tensor([alphabet[character] for character in text])
    torch.manual_seed(0)
    starts = torch.randint(0, len(stream) - TIME - 1, (samples,)).tolist()
    x = torch.stack([stream[start : start + TIME] for start in starts])
    y = torch.stack([stream[start + 1 : start + TIME + 1] for start in starts])
    model, batch = folder / "transformer.pt", folder / "transformer.safetensors"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is deprecated upstream and still deployed
        torch.jit.script(CharacterModel(len(alphabet))).save(str(model))
    save_file({"x": x, "y": y}, batch)
    return model, batch


if __name__ == "__main__":
    for written in write_model_and_batch(Path()):
        print(written)
