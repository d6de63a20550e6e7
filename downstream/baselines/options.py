"""What stands beside an encoder: raw-spectrum baselines and untrained twins."""

from __future__ import annotations

from dataclasses import dataclass

from downstream.splits.options import at_least


@dataclass(frozen=True, kw_only=True)
class BaselineOptions:
    """Which controls a table has.

    Attributes:
        baselines: the raw-spectrum, pretreated, PCA, MNF and SVM baselines and the majority class.
        pca: components of the PCA and MNF rows.
        init_seeds: untrained twins of the encoder.
    """

    baselines: bool = True
    pca: int = 30
    init_seeds: int = 3

    def check(self) -> None:
        """Refuse what makes no sense, by name.

        Raises:
            UsageError: no components, a negative number of twins.
        """
        at_least(1, {"pca": self.pca})
        at_least(0, {"--init-seeds": self.init_seeds})
