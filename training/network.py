"""phisight's own network in a training step: batched pictures, the answer's loss, the helper's.

The helper head reads characters off single image tokens (we drew them, so we know where each
stands); it teaches the vision tower to see letters long before the answers could, and is dropped
afterwards.

Dimensions as in `batch`; N image tokens of a picture, D hidden size, V vocabulary size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from batch import NUM_LABELS, PER_CELL, Batch
from phisight.config import ProcessorConfig
from phisight.hd import CROP
from phisight.model.decoder import causal_attend
from phisight.model.phi3v import Phi3V

EMPTY_WEIGHT = 0.05  # of cells without a character, nineteen of twenty


class Losses(NamedTuple):
    answer: Tensor
    helper: Tensor
    exact: Tensor  # share of answers without a wrong token, teacher-forced
    tokens: Tensor  # share of right tokens
    cells: Tensor  # share of characters the helper sees


class Trainee(nn.Module):
    def __init__(self, network: Phi3V, processor: ProcessorConfig) -> None:
        super().__init__()
        self.network = network
        self.helper = nn.Linear(network.config.hidden_size, PER_CELL * NUM_LABELS)
        self.mean: Tensor
        self.std: Tensor
        for name in ("mean", "std"):
            values = torch.tensor(getattr(processor, f"image_{name}")).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, batch: Batch) -> Losses:
        ids = batch.ids.long()
        encoded = [self.encode(canvas) for canvas in batch.canvases]  # (B, N, D) each
        x = self.network.model.embed_tokens(ids.clamp(min=0)).flatten(0, 1)
        for image, slots in zip(encoded, batch.image_slots, strict=True):
            x = x.index_copy(0, slots, image.flatten(0, 1).to(x.dtype))
        # Parameters are float32; what runs between the layers is bfloat16, as in use. In float32,
        # which autocast alone leaves it at, memory traffic holds an H100 to 320 samples a second.
        x = x.bfloat16().unflatten(0, ids.shape)
        rotation = self.network.rope().rotation(0, x.shape[1], length=x.shape[1], dtype=x.dtype)
        hidden = self.network(x, rotation, causal_attend)
        at = batch.before_answer
        logits = self.network.lm_head(hidden.flatten(0, 1)[at]).float()
        target = ids.flatten()[at + 1]
        answer = functional.cross_entropy(logits, target)
        hits = (logits.argmax(-1) == target).float()
        right = torch.ones(ids.numel(), device=ids.device).index_copy(0, at, hits)
        helper, cells = self.helper_loss(encoded, batch)
        exact, tokens = right.view(ids.shape).amin(1).mean(), hits.mean()
        return Losses(answer, helper, exact, tokens, cells)

    def encode(self, canvas: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 canvases to (B, N, D) image tokens."""
        size, rows, cols = len(canvas), canvas.shape[1] // CROP, canvas.shape[2] // CROP
        pixels = (canvas.permute(0, 3, 1, 2).float().div(255) - self.mean) / self.std
        whole = functional.interpolate(pixels, size=(CROP, CROP), mode="bicubic")
        grid = pixels.view(size, 3, rows, CROP, cols, CROP).permute(0, 2, 4, 1, 3, 5)
        crops = torch.cat([whole[:, None], grid.flatten(1, 2)], dim=1)  # (B, 1 + R*C, 3, 336, 336)
        embedding = self.network.model.vision_embed_tokens
        tower = embedding.img_processor.vision_model
        tokens = tower.pre_layrnorm(tower.embeddings(crops.flatten(0, 1))).bfloat16()
        features = tower.encoder(tokens)[:, 1:]
        each = features.unflatten(0, (size, -1))  # (B, 1 + R*C, P, E)
        return torch.vmap(lambda one: embedding.project(one, rows, cols))(each)

    def helper_loss(self, encoded: list[Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        nothing = torch.zeros((), device=self.mean.device)
        losses, weights, hits, count = nothing, nothing, nothing, nothing
        for image, labels in zip(encoded, batch.labels, strict=True):
            rows, cols = labels.shape[1:3]
            lines = image[:, : rows * (cols + 1)].unflatten(1, (rows, cols + 1))
            logits = self.helper(lines[:, :, :-1]).float().view(-1, NUM_LABELS)
            target = labels.long().view(-1)
            weight = torch.where(target > 0, 1.0, EMPTY_WEIGHT)
            loss = functional.cross_entropy(logits, target, reduction="none")
            losses, weights = losses + (loss * weight).sum(), weights + weight.sum()
            seen = target > 0
            hits, count = hits + ((logits.argmax(-1) == target) & seen).sum(), count + seen.sum()
        return losses / weights, hits / count.clamp(min=1)
