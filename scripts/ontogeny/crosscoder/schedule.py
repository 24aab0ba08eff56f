"""How the learning rate and the sparsity coefficient change over the steps."""


def learning_rate_factor(step: int, steps: int, warmup: float, decay: float, final: float = 0.0) -> float:
    """Give the learning rate of a step as a share of its peak: linear up, flat, linear down.

    Args:
        step: optimiser steps done before this one, from 0.
        steps: optimiser steps of the whole run.
        warmup: share of the steps over which it rises; the first of them is not 0.
        decay: share of the steps, at the end, over which it falls.
        final: what it falls to; the step after the last would have it.
    """
    rising = (step + 1) / (warmup * steps) if warmup else 1.0
    falling = final + (1.0 - final) * (steps - step) / (decay * steps) if decay else 1.0
    return min(1.0, rising, falling)


def sparsity_factor(step: int, steps: int, warmup: float) -> float:
    """Give the sparsity coefficient of a step as a share of its final value: linear up from 0, then flat."""
    return min(1.0, step / (warmup * steps)) if warmup else 1.0
