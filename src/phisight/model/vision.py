"""The CLIP vision tower, up to the layer whose features Phi-3-V takes.

Attribute names are the checkpoint's keys (the misspelt `pre_layrnorm` too). Follows CLIP
(Radford et al. 2021) as `transformers` names it. Layers after the feature layer and
`post_layernorm` are never read by Phi-3-V and are not built; whoever adds them, to keep a
checkpoint whole, will find that they are not run.

Dimensions: N crops, P = 24*24 patches, T = 1 + P tokens with the class token, E hidden size.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from phisight.config import VisionConfig
from phisight.hd import CROP, PATCHES
from phisight.kernels import between
from phisight.kernels.patches import embed_patches
from phisight.model.packed import FullLinear, Int7Linear

_PATCH = CROP // PATCHES


def empty_embedding(rows: int, size: int) -> nn.Embedding:
    """An embedding whose weights come later.

    nn.Embedding draws random ones even on the meta device, and loading torch's Python version of
    `normal_` for that takes 2.3 s.
    """
    return nn.Embedding.from_pretrained(torch.empty(rows, size), freeze=False)


class PatchEmbedding(nn.Conv2d):
    """(N, 3, 336, 336) crops to (N, P, E)."""

    def forward(self, crops: Tensor) -> Tensor:
        return embed_patches(crops, self.weight)


class VisionEmbeddings(nn.Module):
    """No other module's weights are reached into: they may be off-loaded until it is called."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.class_embedding = nn.Parameter(torch.empty(hidden))
        self.patch_embedding = PatchEmbedding(3, hidden, _PATCH, stride=_PATCH, bias=False)
        self.position_embedding = empty_embedding(1 + PATCHES * PATCHES, hidden)

    def forward(self, crops: Tensor) -> Tensor:
        patches = self.patch_embedding(crops)  # (N, P, E)
        first = self.class_embedding.expand(len(crops), 1, -1)
        tokens = torch.cat([first, patches], dim=1)  # (N, T, E)
        return tokens + self.position_embedding(torch.arange(tokens.shape[1], device=crops.device))


class VisionAttention(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.num_heads = config.num_heads
        self.q_proj = FullLinear(hidden, hidden)
        self.k_proj = FullLinear(hidden, hidden)
        self.v_proj = FullLinear(hidden, hidden)
        self.out_proj = FullLinear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1))  # (N, T, heads, d)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(between.attend_all(q, k, v).flatten(2))


class VisionMLP(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = FullLinear(config.hidden_size, config.intermediate_size)
        self.fc2 = FullLinear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.fc1, Int7Linear):  # in one pass: what is between is 24 MB for 5 crops
            return self.fc2(self.fc1(x, gelu=True))
        return self.fc2(between.quick_gelu(self.fc1(x)))


class VisionLayer(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.self_attn = VisionAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class VisionEncoder(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.num_used = config.num_layers
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(self.num_used))

    def forward(self, x: Tensor) -> Tensor:
        for layer in itertools.islice(self.layers, self.num_used):
            x = layer(x)
        return x


class VisionTransformer(nn.Module):
    """Crops (N, 3, 336, 336) to patch features (N, P, E)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = VisionEncoder(config)

    def forward(self, crops: Tensor) -> Tensor:
        x = self.encoder(self.pre_layrnorm(self.embeddings(crops)))
        return x[:, 1:]
