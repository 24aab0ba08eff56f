"""Addresses of pages, in one place: the server's here; an export puts its own in their stead."""

from dataclasses import dataclass
from urllib.parse import quote

from ontogeny.database.documents import RunName


@dataclass(frozen=True)
class Section:
    """A page of a run that the navigation leads to."""

    name: str
    """Last part of its address; empty for the list of features."""
    label: str
    """What it is called."""


SECTIONS = (
    Section("", "Features"),
    Section("scatter", "Scatter"),
    Section("compare", "Compare"),
    Section("try", "Try text"),
)
"""Pages of every run, in the order of the navigation."""


class Links:
    """Addresses below the root of the server."""

    sections: tuple[Section, ...] = SECTIONS
    """Pages of every run that there are."""
    scripted: str = ""
    """Script that answers in the place of a server; empty where there is one."""

    def home(self) -> str:
        """Lead to all runs."""
        return "/"

    def static(self, name: str) -> str:
        """Lead to a script or a stylesheet."""
        return f"/static/{name}"

    def section(self, run: RunName, section: Section) -> str:
        """Lead to a page of a run."""
        return self._run(run) + quote(section.name)

    def page(self, run: RunName, name: str, query: str = "") -> str:
        """Lead to a page of a run by name, such as `scatter`."""
        return self._run(run) + name + (f"?{query}" if query else "")

    def figures(self) -> str:
        """Lead to the figures of the study."""
        return "/figures"

    def figure(self, name: str, suffix: str) -> str:
        """Lead to a file of a figure."""
        return f"/figures/{quote(name)}.{suffix}"

    def features(self, run: RunName, query: str = "") -> str:
        """Lead to the list of features that a query finds."""
        return self._run(run) + (f"?{query}" if query else "")

    def feature(self, run: RunName, feature: int, query: str = "") -> str:
        """Lead to a feature, found by a query whose order its neighbours follow."""
        return f"{self._run(run)}{feature}" + (f"?{query}" if query else "")

    def random(self, run: RunName, query: str = "") -> str | None:
        """Lead to any feature that a query finds; None where there is nobody to draw it."""
        return f"{self._run(run)}random" + (f"?{query}" if query else "")

    def edit(self, run: RunName, feature: int, query: str = "") -> str | None:
        """Lead to where changes of a feature are sent; None where nothing can be changed."""
        return f"{self._run(run)}{feature}/edit" + (f"?{query}" if query else "")

    def _run(self, run: RunName) -> str:
        return "/" + "".join(f"{quote(part, safe='')}/" for part in run)
