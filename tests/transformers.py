"""Small networks that give their maps in other layouts than `(B, C, *spatial)`."""

import torch
from torch import Tensor, nn


class TokenBlock(nn.Module):
    """Tokens `(B, N, C)` to tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.linear = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.linear(self.norm(tokens))


class LastBlock(nn.Module):
    """A map `(B, *spatial, C)` to one with half the sizes, each axis apart, and twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels)

    def forward(self, feature: Tensor) -> Tensor:
        parts = [feature[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.reduction(torch.cat(parts, -1))


class Transformer(nn.Module):
    """A two-dimensional network: tokens of stride 4, channels last of stride 8, two decoder stages of convolutions.

    Args:
        channels: Of the tokens; a token map has four axes' worth of names to be confused with.
    """

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(1, channels, 4, 4)
        self.tokens = TokenBlock(channels)
        self.merge = LastBlock(channels)
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, 2)
        self.final = nn.ConvTranspose2d(2 * channels, 4, 4, 4)
        self.classes = nn.Conv2d(4, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        embedded = self.embed(images)
        tokens = self.tokens(embedded.flatten(2).transpose(1, 2))
        skip = tokens.unflatten(1, embedded.shape[2:])
        deep = self.up(self.merge(skip).movedim(-1, 1))
        return self.classes(self.final(torch.cat([deep, skip.movedim(-1, 1)], 1)))


NAMED = {"encoder_stages": ["tokens", "merge"], "decoder_stages": ["up"], "teacher": "final"}
