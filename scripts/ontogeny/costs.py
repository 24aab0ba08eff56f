"""What decides the cost of a model, and what a stage takes."""

from typing import NamedTuple

from ontogeny.sites import Site


class Shape(NamedTuple):
    """What of a model decides its cost."""

    layers: int
    d_model: int
    d_mlp: int
    vocab_size: int

    def forward_flop(self, layers: int | None = None) -> float:
        """FLOP of a forward pass per token, through the first `layers` blocks, or all of them and the unembedding.

        Two FLOP per weight (Kaplan et al. 2020, section 2.1), without the attention scores.
        """
        block = 4 * self.d_model**2 + 2 * self.d_model * self.d_mlp
        if layers is not None:
            return 2.0 * block * min(layers, self.layers)
        return 2.0 * (block * self.layers + self.d_model * self.vocab_size)

    @property
    def parameters(self) -> float:
        """Weights, embedding and unembedding apart."""
        block = 4 * self.d_model**2 + 2 * self.d_model * self.d_mlp
        return float(block * self.layers + 2 * self.d_model * self.vocab_size)


class Cost(NamedTuple):
    """What a stage takes."""

    stage: str
    """Rule, and what it is about where there are several."""
    jobs: int
    """Jobs of the rule."""
    tokens: float
    """Tokens or rows that it reads."""
    disk: float
    """Bytes that it leaves."""
    flop: float
    """Floating-point operations."""
    scratch: float = 0.0
    """Bytes that it needs beside them while it runs, if all its jobs run at one time."""


def depth(site: Site) -> int:
    """Count the blocks through which a forward pass goes to reach a site."""
    block = site.hook.split(".")
    return int(block[1]) + 1 if block[0] == "blocks" else 0
