"""Templates: contexts in, pages out, every text escaped."""

from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ontogeny.browser.links import Links
from ontogeny.browser.parameters import SIZES, choices
from ontogeny.browser.quantities import number, percent
from ontogeny.colours import class_colours, dark_class_colours

TEMPLATES = Path(__file__).parent / "templates"
STATIC = Path(__file__).parent / "static"


def environment() -> Environment:
    """Make the environment of all templates: text is escaped, and a misspelt name is an error."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(number=number, percent=percent)
    made.globals.update(
        sizes=SIZES,
        choices=choices,
        class_colours=class_colours(),
        dark_class_colours=dark_class_colours(),
    )
    return made


class Renderer:
    """Renders pages with links of one kind."""

    def __init__(self, links: Links, templates: Environment | None = None) -> None:
        self.links = links
        self._environment = templates or environment()

    def page(self, template: str, **context: object) -> str:
        """Render a page.

        Args:
            template: name of the template, such as `list.html`.
            context: what it shows.
        """
        named: Mapping[str, object] = {"links": self.links, **context}
        return self._environment.get_template(template).render(named)

    def linking(self, links: Links) -> "Renderer":
        """Render the same templates with other links."""
        return Renderer(links, self._environment)
