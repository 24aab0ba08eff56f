"""What a streamed study reads its activations with, in place of shards."""

from pydantic import Field

from ontogeny.config.activations import HarvestSettings
from ontogeny.config.base import Name
from ontogeny.config.models import PlantedModel

FILE = "streamed.json"
"""Name of the file, in the folder that holds rows and statistics of a streamed study."""


class StreamedSettings(HarvestSettings):
    """The content of `streamed.json`: what rows of a shard, tokens and checkpoints do not say."""

    planted: dict[Name, PlantedModel] = Field(default_factory=dict)
    """Planted models by name; all others are language models."""
    models: str = "../../models"
    """Folder of all checkpoints, from the folder of the file."""
    tokens: str = "../../tokens"
    """Folder of the tokens of both splits, from the folder of the file."""
    code: str = ""
    """Hash of the code that reads activations: an edit changes the file, and reruns what is read from it."""
