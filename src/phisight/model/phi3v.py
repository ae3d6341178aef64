"""The whole Phi-3-V network and what its work costs.

Owns how image tokens join text embeddings, and the cost model. Knows nothing of requests or text.

Dimensions: T tokens, D hidden size, V vocabulary size.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from phisight.config import ModelConfig
from phisight.hd import PATCHES
from phisight.model.decoder import Attend, DecoderLayer, RMSNorm, widened
from phisight.model.packed import last_linear, pack_tower
from phisight.model.projector import ImageEmbedding
from phisight.model.rope import Rope, Rotation
from phisight.model.vision import empty_embedding


@dataclass(frozen=True, eq=False)
class Crops:
    """A picture to encode: (1 + rows*cols, 3, 336, 336) pixels, global crop first.

    Pictures of equal `key` hold the same.
    """

    pixels: Tensor
    rows: int
    cols: int
    num_tokens: int
    key: bytes


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """A picture's image tokens, (num_tokens, D): computed once, usable in any number of prompts.

    `encoder` is the loaded network it belongs to, by a mark that keeps nothing alive. Pictures of
    equal `key` hold the same; without one it is like no other.
    """

    features: Tensor
    encoder: object = None
    key: bytes = field(default_factory=lambda: os.urandom(16))

    @property
    def num_tokens(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        return f"<phisight.EncodedImage of {self.num_tokens} tokens>"


class Phi3VModel(nn.Module):
    """The level `model` of the checkpoint's names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = empty_embedding(config.vocab_size, config.hidden_size)
        self.vision_embed_tokens = ImageEmbedding(config)
        if config.activations is not None:
            pack_tower(self.vision_embed_tokens)
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def embed(self, slots: Tensor, images: Sequence[Tensor]) -> Tensor:
        """(..., T, D) input embeddings of (..., T) ids; -n takes the next image token of picture n.

        `images` are (num_tokens, D), as many as -n stands for in all.
        """
        x: Tensor = self.embed_tokens(slots.clamp(min=0))
        for number, features in enumerate(images, start=1):
            # Not in place: in training `x` may be a leaf.
            x = x.index_put((slots == -number,), features.to(x.device, x.dtype))
        return x


class Phi3V(nn.Module):
    """encode_image -> embed -> forward -> logits; each a pure function of its arguments."""

    def __init__(
        self, config: ModelConfig, body: Phi3VModel | None = None, head: nn.Module | None = None
    ) -> None:
        """`body` and `head` are modules that are there already: shared, not copied."""
        super().__init__()
        self.config = config
        self.mark = object()  # what EncodedImage.encoder compares with
        self.model = body or Phi3VModel(config)
        self.lm_head = head or last_linear(config, config.hidden_size, config.vocab_size)

    @property
    def device(self) -> torch.device:
        return self.model.norm.weight.device  # not of a linear layer, which may be packed

    @property
    def dtype(self) -> torch.dtype:
        return self.model.norm.weight.dtype

    def rope(self) -> Rope:
        return Rope(self.config.rope, self.config.head_dim, self.device)

    def encode_image(self, crops: Tensor, rows: int, cols: int) -> EncodedImage:
        """Image tokens of one picture from its (1 + rows*cols, 3, 336, 336) crops."""
        crops = crops.to(self.device, self.dtype)
        return EncodedImage(self.model.vision_embed_tokens(crops, rows, cols), self.mark)

    def encode_images(
        self, pictures: Sequence[Crops], saw: Callable[[int], None] = lambda _: None
    ) -> list[EncodedImage]:
        """Several pictures, their crops through the vision tower together; `saw` is told of every
        few that are through."""
        if not pictures:
            return []
        embedding = self.model.vision_embed_tokens
        pixels = torch.cat([picture.pixels.to(self.device, self.dtype) for picture in pictures])
        # On a CPU more take longer in proportion, and nobody would know how long; and with less to
        # hold at once memory is used again, not fetched (five of the full size: 1.95 to 1.75 s).
        at_once = 2 if self.device.type == "cpu" else len(pixels)
        seen = []
        for some in pixels.split(at_once):
            seen.append(embedding.img_processor.vision_model(some))
            saw(len(some))
        features = torch.cat(seen)  # (N, P, E)
        parts = features.split([len(picture.pixels) for picture in pictures])
        return [
            EncodedImage(
                embedding.project(part, picture.rows, picture.cols), self.mark, picture.key
            )
            for part, picture in zip(parts, pictures, strict=True)
        ]

    def embed(self, ids: Sequence[int], images: Sequence[EncodedImage]) -> Tensor:
        """(T, D) input embeddings; -n in `ids` takes the next image token of picture n."""
        slots = torch.tensor(ids, device=self.device)
        return self.model.embed(slots, [image.features for image in images])

    def forward(self, x: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        """(..., T, D) embeddings to (..., T, D) final hidden states, normed."""
        for layer in self.model.layers:
            x = layer(x, rotation, attend)
        return self.model.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) hidden states to (..., V) float32 logits (float64 stays float64)."""
        return widened(self.lm_head(hidden))

    # What the work costs: for previews, and for benchmarks to say how far from the least they are.

    def bytes_per_token_cached(self) -> int:
        """Keys and values of one token: 384 KiB for Phi-3-vision in bfloat16."""
        return 2 * self.config.num_layers * self.config.hidden_size * self.dtype.itemsize

    def bytes_to_read(self, prompt_tokens: int) -> int:
        """Memory to prefill a prompt: its cache, and the widest layer's inputs and outputs."""
        c = self.config
        widest = (4 * c.hidden_size + 3 * c.intermediate_size) * self.dtype.itemsize
        return prompt_tokens * (self.bytes_per_token_cached() + widest)

    def bytes_per_step(self, batch: int, context: int) -> int:
        """Bytes read to decode one token for each of `batch` sequences of `context` tokens."""
        read = (*self.model.layers.parameters(), *self.lm_head.parameters())
        weights = sum(parameter.nbytes for parameter in read)
        return weights + batch * context * self.bytes_per_token_cached()

    def flops(self, prompt_tokens: int, crops: int) -> int:
        """Multiply-adds, counted as two, to encode `crops` crops and prefill a prompt."""
        c, v = self.config, self.config.vision
        layer = 4 * c.hidden_size**2 + 3 * c.hidden_size * c.intermediate_size
        attention = 2 * prompt_tokens * c.hidden_size // 2  # causal: half of the square
        language = prompt_tokens * c.num_layers * (layer + attention) + c.hidden_size * c.vocab_size
        tokens = 1 + PATCHES * PATCHES
        block = 4 * v.hidden_size**2 + 2 * v.hidden_size * v.intermediate_size
        vision = crops * tokens * v.num_layers * (block + 2 * tokens * v.hidden_size)
        return 2 * (language + vision)
