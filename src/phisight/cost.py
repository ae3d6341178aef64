"""What a question will take, known before it is asked. Numbers only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, repr=False)
class Cost:
    """Tokens and bytes of a request that has not run."""

    prompt_tokens: int  # text and pictures
    image_tokens: tuple[int, ...]  # of each picture, in the prompt's order
    context: int  # most tokens that the model can hold, prompt and answer together
    token_bytes: int  # keys and values of each token, of the prompt and of the answer
    cache_bytes: int  # memory set aside for the keys and values of all requests
    flops: int  # to encode the pictures and read the prompt; multiply-adds count as two

    @property
    def prompt_bytes(self) -> int:
        """Keys and values of the prompt."""
        return self.prompt_tokens * self.token_bytes

    @property
    def max_answer_tokens(self) -> int:
        """Room in the context for the answer; 0 if the prompt does not fit."""
        return max(0, self.context - self.prompt_tokens)

    @property
    def fits(self) -> bool:
        """Whether the context and the cache hold the prompt and one token."""
        return (
            self.max_answer_tokens > 0 and self.prompt_bytes + self.token_bytes <= self.cache_bytes
        )

    def __repr__(self) -> str:
        return f"<phisight.Cost {self}>"

    def __str__(self) -> str:
        pictures = f" ({sum(self.image_tokens)} of pictures)" if self.image_tokens else ""
        return (
            f"{self.prompt_tokens} tokens{pictures} of {self.context}, "
            f"{self.prompt_bytes / 2**20:.0f} MiB of {self.cache_bytes / 2**20:.0f}, "
            f"{self.flops / 1e12:.2f} TFLOP" + ("" if self.fits else ": does not fit")
        )
