"""What the static copy of the feature browser holds."""

from ontogeny.config.base import Name, Settings


class BrowserSettings(Settings):
    """A folder of web pages that needs no server of its own, for the supplement of a paper."""

    runs: tuple[tuple[Name, Name], ...] = ()
    """Dictionary and run of each that it holds; `figures.run` if left out."""
