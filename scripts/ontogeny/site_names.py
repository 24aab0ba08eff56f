"""Names of sites and of steps, as people read them."""

from collections.abc import Sequence

from ontogeny.sites import Site


def step_name(step: int) -> str:
    """Write a step briefly: 512, 1k, 143k, 1M."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if step >= size and step % (size // 10) == 0:
            return f"{step / size:g}{unit}"
    return str(step)


def over_steps(sites: Sequence[Site]) -> bool:
    """Tell whether sites are checkpoints of one model at one hook, so that the training step alone tells them apart."""
    return (
        len({(site.model, site.hook) for site in sites}) == 1 and len({site.step for site in sites}) == len(sites) > 1
    )


def site_names(sites: Sequence[Site]) -> list[str]:
    """Name sites by what tells them apart: model, step, block."""
    several = [len({getattr(site, field) for site in sites}) > 1 for field in Site._fields]
    if not any(several):
        return [f"step {site.step:,}" for site in sites]
    hooks = _hook_names([site.hook for site in sites])
    return [
        " ".join(part for part, shown in zip((site.model, f"step {site.step:,}", hook), several, strict=True) if shown)
        for site, hook in zip(sites, hooks, strict=True)
    ]


def _hook_names(hooks: Sequence[str]) -> list[str]:
    """Shorten `blocks.2.hook_resid_post` to `block 2 resid_post`, and to `block 2` where all are alike."""
    parts = [hook.removeprefix("blocks.").partition(".") for hook in hooks]
    in_blocks = all(hook.startswith("blocks.") and hook.split(".")[1].isdigit() for hook in hooks)
    if not in_blocks:
        return list(hooks)
    same = len({rest for _, _, rest in parts}) == 1
    return [f"block {block}" if same else f"block {block} {rest.removeprefix('hook_')}" for block, _, rest in parts]


def axis_title(sites: Sequence[Site]) -> str:
    """Say what sites differ by: a model, a checkpoint, a hook point or several of these."""
    differ = [field for field in Site._fields if len({getattr(site, field) for site in sites}) > 1]
    kinds = {"model": "Model", "step": "Checkpoint", "hook": "Hook point"}
    return kinds[differ[0]] if len(differ) == 1 else "Site"
