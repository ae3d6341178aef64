"""Our modules in a batch: embeddings in, hidden states out, over any cache of transformers.

Owns the rule of LongRoPE in a batch: each row by its own length, whatever its neighbours are; a row
that outgrows the short factors is read again from its first token.

Dimensions: B rows, T tokens of this step, P tokens before them, H heads, d head size, D hidden
size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.masking_utils import create_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from phisight.config import ModelConfig
from phisight.errors import BudgetError, OptionError
from phisight.hf.cache import Phi3VCache
from phisight.kernels.dense import widens
from phisight.model.phi3v import Phi3VModel
from phisight.model.rope import Rope

RunLayer = Callable[..., Tensor]


@dataclass
class Record:
    """What the caller wants to see of a forward besides its result."""

    hidden_states: list[Tensor] | None = None  # (B, T, D) each: inputs, layers' outputs, the result
    attentions: list[Tensor] | None = None  # (B, H, T, P + T) each


@dataclass
class Attending:
    """`attend` of the decoder: stores keys and values, calls transformers' attention function."""

    owner: PreTrainedModel  # the functions ask it for `config`, `training` and the like
    cache: Cache | None
    mask: Tensor | None
    record: Record = field(default_factory=Record)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, H, T, d)
        if self.cache is not None:
            k, v = self.cache.update(k, v, layer)  # (B, H, P + T, d)
        function = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.owner.config._attn_implementation, eager_attention
        )
        mask = None if self.mask is None else self.mask.to(q.device)
        dtype = q.dtype
        if widens(q):  # on a CPU without products of bfloat16; `eager_attention` casts back itself
            q, k, v = q.float(), k.float(), v.float()
            mask = mask.float() if mask is not None and mask.is_floating_point() else mask
        mixed, weights = function(self.owner, q, k, v, mask, scaling=q.shape[-1] ** -0.5)
        mixed = mixed.to(dtype)
        if self.record.attentions is not None:
            self.record.attentions.append(weights)
        return mixed  # (B, T, H, d)


def eager_attention(
    module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float
) -> tuple[Tensor, Tensor]:
    """The official eager attention: softmax in float32 or wider, then cast back."""
    scores = q @ k.transpose(2, 3) * scaling
    if mask is not None:
        scores = scores + mask
    wide = torch.promote_types(q.dtype, torch.float32)
    weights = scores.softmax(-1, dtype=wide).to(q.dtype)
    return (weights @ v).transpose(1, 2).contiguous(), weights


@dataclass
class BatchReader:
    """Rows of embeddings through the decoder layers. `run_layer` is how a layer is called."""

    owner: PreTrainedModel
    config: ModelConfig
    network: Phi3VModel
    run_layer: RunLayer

    def read(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: Cache | None = None,
        *,
        record: Record,
        num_wanted: int = 0,
    ) -> Tensor:
        """(B, T, D) normed hidden states of (B, T, D) inputs at (B, T) positions.

        `mask` is (B, P + T) of ones and zeros. The last `num_wanted` hidden states are to be what
        they would be if the sequence ended there, as when several drafted tokens are judged at
        once; the others belong to the sequence as a whole. Raises BudgetError beyond the context.
        """
        border = self._border(positions, num_wanted)
        if cache is None or not border:
            return self._read_together(x, positions, mask, cache, record)
        if record != Record():
            raise OptionError(
                "output_attentions and output_hidden_states cannot be told for drafted tokens on "
                f"both sides of {self._original} tokens: leave them out, or prompt lookup"
            )
        stop = cache.get_seq_length() + border
        before = None if mask is None else mask[:, :stop]
        first = self._read_together(x[:, :border], positions[:, :border], before, cache, record)
        num_left = x.shape[1] - border
        rest = self.read(
            x[:, border:], positions[:, border:], mask, cache, record=record, num_wanted=num_left
        )
        return torch.cat([first, rest], dim=1)

    @property
    def _original(self) -> int:
        return self.config.rope.original_max_positions

    def _border(self, positions: Tensor, num_wanted: int) -> int:
        """Where the first wanted token of a row stands that the long factors turn; 0 for nowhere.

        None is counted where the row's first wanted token is one: there the whole row is long.
        """
        if num_wanted < 2:
            return 0
        wanted = positions[:, -num_wanted:] >= self._original  # (B, num_wanted)
        starts = wanted[:, 1:] & ~wanted[:, :-1]
        columns = starts.any(0).nonzero()
        return positions.shape[1] - num_wanted + 1 + int(columns[0]) if len(columns) else 0

    def _read_together(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: Cache | None,
        record: Record,
    ) -> Tensor:
        lengths = positions.amax(1) + 1  # (B,)
        longest, limit = int(lengths.max()), self.config.max_positions
        if longest > limit:
            raise BudgetError(
                f"the sequence has {longest} tokens and the model's context is {limit}: "
                "use fewer pictures, fewer crops (num_crops), or less text"
            )
        is_long = lengths > self._original
        past = 0 if cache is None else int(cache.get_seq_length())
        if cache is not None and past:
            own = isinstance(cache, Phi3VCache)
            was_long = cache.is_long() if own else positions[:, 0] > self._original
            changed = was_long != is_long
            if bool(changed.any()):
                if not isinstance(cache, Phi3VCache):
                    raise OptionError(self._cannot_cross(cache))
                self._read_again(cache, changed.nonzero()[:, 0], is_long, mask)
        return self._pass(x, positions, is_long, mask, cache, record)

    def _cannot_cross(self, cache: Cache) -> str:
        return (
            f"the sequence grows past {self._original} tokens, where cached keys must be turned "
            f"anew, and a {type(cache).__name__} does not keep what that takes: leave "
            "past_key_values and cache_implementation out, or pass "
            "past_key_values=phisight.hf.Phi3VCache(model.config)"
        )

    def _read_again(
        self, cache: Phi3VCache, rows: Tensor, is_long: Tensor, mask: Tensor | None
    ) -> None:
        """Make the cache of some rows anew, with the factors of their present length."""
        x, positions = cache.inputs(rows)  # (b, P, D), (b, P)
        seen = None if mask is None else mask[rows, : x.shape[1]]
        fresh = Phi3VCache(self.owner.config)
        self._pass(x, positions, is_long[rows], seen, fresh, Record())
        cache.replace(rows, fresh)

    def _pass(
        self,
        x: Tensor,
        positions: Tensor,
        is_long: Tensor,
        mask: Tensor | None,
        cache: Cache | None,
        record: Record,
    ) -> Tensor:
        causal = create_causal_mask(
            config=self.owner.config, inputs_embeds=x, attention_mask=mask, past_key_values=cache
        )
        if isinstance(cache, Phi3VCache):
            cache.add_inputs(x, positions, is_long)
        rope = Rope(self.config.rope, self.config.head_dim, x.device)
        rotation = rope.rotation_at(positions, is_long, x.dtype)
        attend = Attending(self.owner, cache, causal, record)
        for layer in self.network.layers:
            if record.hidden_states is not None:
                record.hidden_states.append(x)
            x = self.run_layer(layer, x, rotation, attend)
        x = self.network.norm(x)
        if record.hidden_states is not None:
            record.hidden_states.append(x)
        return x
