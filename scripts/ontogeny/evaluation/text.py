"""What features do on a text that somebody typed: where they fire, and what each site adds."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ontogeny.crosscoder.model import Crosscoder
from ontogeny.errors import UserError
from ontogeny.evaluation.checkpoints import Checkpoints
from ontogeny.evaluation.encoding import load_dictionary
from ontogeny.evaluation.reading import encoded, read_activations
from ontogeny.evaluation.samples import texts_of
from ontogeny.tokenizer import read_tokenizer


class FeatureOnText(NamedTuple):
    """A feature that fires on a text."""

    feature: int
    """Number of the latent."""
    activation_T: NDArray[np.float32]
    """Its activation at each token, 0 where it does not fire (shape: [T])."""
    readings_ST: NDArray[np.float32]
    """What each site adds to its pre-activation at each token (shape: [S, T])."""
    norms_S: NDArray[np.float32]
    """Norm of its decoder at each site (shape: [S])."""


class ReadText(NamedTuple):
    """A text as the models saw it."""

    texts: tuple[str, ...]
    """Its tokens, without BOS."""
    cut: int
    """Tokens at its end that did not fit into a context."""
    firing: int
    """Features that fire on it."""
    features: tuple[FeatureOnText, ...]
    """Those of them that fire most, strongest first."""


class TextReader:
    """A dictionary and the models of its sites, which are loaded at the first text."""

    def __init__(self, dictionary: Path, models: Path, tokenizer: Path, context_length: int) -> None:
        """Say where things are.

        Args:
            dictionary: folder of the run.
            models: folder of all checkpoints.
            tokenizer: its `tokenizer.json`.
            context_length: tokens that models read at once, BOS included.
        """
        self._folders = dictionary, models, tokenizer
        self._context_length = context_length
        self._loaded: tuple[Crosscoder, Checkpoints] | None = None

    @torch.inference_mode()
    def read(self, text: str, most: int) -> ReadText:
        """Read a text at all sites.

        BOS comes before it, and is not among what is returned, as dictionaries do not see it either.

        Args:
            text: what was typed.
            most: features that are returned at most.

        Raises:
            UserError: the text is empty, or the run, its checkpoints or the tokenizer are not on disk.
        """
        tokenizer = read_tokenizer(self._folders[2])
        ids = tokenizer.tokenizer.encode(text, add_special_tokens=False).ids
        if not ids:
            raise UserError("the text has no token; type a few words")
        kept = ids[: self._context_length - 1]
        crosscoder, checkpoints = self._load()
        tokens_BT = torch.tensor([[tokenizer.bos_id, *kept]])
        x_TSD = read_activations(crosscoder, checkpoints, tokens_BT, len(kept))[0]
        f_TL = torch.cat(list(encoded(crosscoder, x_TSD))).cpu()
        most_L = f_TL.amax(0)
        firing = int((most_L > 0).sum())
        chosen_F = torch.sort(most_L, descending=True, stable=True).indices[: min(most, firing)]
        scaled_TSD = crosscoder.scaled(x_TSD.to(crosscoder.W_dec.device))
        readings_STF = torch.einsum("tsd,sdf->stf", scaled_TSD, crosscoder.W_enc[:, :, chosen_F]).cpu()
        norms_FS = crosscoder.decoder_norms()[chosen_F].cpu().numpy()
        return ReadText(
            tuple(texts_of(tokenizer.tokenizer, kept)),
            len(ids) - len(kept),
            firing,
            tuple(
                FeatureOnText(
                    int(feature), f_TL[:, feature].numpy(), readings_STF[:, :, place].numpy(), norms_FS[place]
                )
                for place, feature in enumerate(chosen_F)
            ),
        )

    def _load(self) -> tuple[Crosscoder, Checkpoints]:
        if self._loaded is None:
            dictionary, models, _ = self._folders
            crosscoder = load_dictionary(dictionary)
            self._loaded = crosscoder, Checkpoints(models, [site.checkpoint for site in crosscoder.sites])
        return self._loaded
