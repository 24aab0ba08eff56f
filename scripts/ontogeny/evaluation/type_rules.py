"""Types of features, decided from what was measured."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ontogeny.config.evaluation import FeatureTypeSettings

TYPES = ("current-token", "previous-token", "induction", "context-sensitive", "other")
"""Types of features, in the order in which they are decided; the last fit none."""


def feature_types(table: pd.DataFrame, settings: FeatureTypeSettings) -> NDArray[np.str_]:
    """Decide the type of each feature, the first of `TYPES` whose condition it meets.

    Current-token and previous-token features have at least `token_share` of their variance explained by that token
    (where both have, the larger share decides); induction features have `induction_score` on at least
    `induction_firings` positions; context-sensitive ones need at least `context` tokens; all others are `other`.

    Args:
        table: columns `current_token_share`, `previous_token_share`, `induction_score`, `copy_firings` and
            `context_needed`.
        settings: the thresholds.
    """
    current, previous = (table[f"{name}_token_share"].fillna(0) for name in ("current", "previous"))
    conditions = (
        (current >= settings.token_share) & (current >= previous),
        previous >= settings.token_share,
        (table["induction_score"] >= settings.induction_score) & (table["copy_firings"] >= settings.induction_firings),
        table["context_needed"] >= settings.context,
    )
    return np.select([condition.to_numpy() for condition in conditions], TYPES[:-1], TYPES[-1])
