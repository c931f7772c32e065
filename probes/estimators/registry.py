"""Every learned probe. A new one is a new file and an entry here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from probes.estimators.linear import LinearProbe
from probes.estimators.mlp import MLPNumberProbe, MLPProbe
from probes.estimators.neighbours import NeighboursNumberProbe, NeighboursProbe
from probes.estimators.online_code import PENALTIES, OnlineCodeProbe
from probes.estimators.ridge import RidgeClassProbe, RidgeProbe

RIDGE_PENALTIES = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6)


@dataclass(frozen=True, kw_only=True)
class ProbeKind:
    """What every probe says of itself.

    name: for tables and code. title, unit, baseline: for people; baseline says what a label that cannot be read gets.
    source: where it comes from. classes, numbers: the estimator of each kind of label, or None where it takes none.
    regularisation: its parameter that is chosen by nested cross-validation, from candidates, the strongest first. None:
        the estimator chooses by itself.
    online: it codes the rows in order instead of predicting held-out folds.
    """

    name: str
    title: str
    unit: str
    baseline: str
    source: str
    classes: Callable[[], Any] | None = None
    numbers: Callable[[], Any] | None = None
    regularisation: str | None = None
    candidates: tuple[float, ...] = ()
    online: bool = False

    def estimator(self, kind: str) -> Any:
        """A fresh estimator for a kind of label, "classes" or "numbers".

        Raises:
            ValueError: this probe takes no such labels.
        """
        made = getattr(self, kind)
        if made is None:
            raise ValueError(f"The probe {self.name!r} takes no labels that are {kind}. Choose {_names(kind)}.")
        return made()


PROBES = {
    probe.name: probe
    for probe in (
        ProbeKind(
            name="linear", title="Linear probe", unit="share of tokens, bits per token",
            baseline="rate of the most common class; entropy of the classes",
            source="Alain & Bengio 2016 (arXiv 1610.01644); multinomial logistic regression, L2 penalty",
            classes=LinearProbe, regularisation="penalty", candidates=PENALTIES,
        ),
        ProbeKind(
            name="ridge", title="Ridge probe", unit="share of tokens; share of variance (R²) for numbers",
            baseline="rate of the most common class; 0 for R²",
            source="Hoerl & Kennard 1970; for classes as scikit-learn's RidgeClassifier",
            classes=RidgeClassProbe, numbers=RidgeProbe, regularisation="penalty", candidates=RIDGE_PENALTIES,
        ),
        ProbeKind(
            name="mlp", title="MLP probe", unit="share of tokens, bits per token; R² for numbers",
            baseline="rate of the most common class; entropy of the classes; 0 for R²",
            source="one hidden layer, as in Hewitt & Liang 2019 (arXiv 1909.03368)",
            classes=MLPProbe, numbers=MLPNumberProbe, regularisation="penalty", candidates=(1.0, 1e-2, 1e-4),
        ),
        ProbeKind(
            name="neighbours", title="Nearest neighbours", unit="share of tokens, bits per token; R² for numbers",
            baseline="rate of the most common class; entropy of the classes; 0 for R²",
            source="Cover & Hart 1967; on standardised features, smoothed by the rates of the classes",
            classes=NeighboursProbe, numbers=NeighboursNumberProbe,
            regularisation="neighbours", candidates=(64, 16, 4),
        ),
        ProbeKind(
            name="online_code", title="MDL probe (online code)", unit="bits; compression against the uniform code",
            baseline="uniform code: tokens * log2(classes) bits, compression 1",
            source="Voita & Titov 2020 (arXiv 2003.12298), with linear probes",
            classes=OnlineCodeProbe, candidates=PENALTIES, online=True,
        ),
    )
}  # fmt: skip


def known_probes(names: Sequence[str]) -> list[ProbeKind]:
    """Probes by name.

    Raises:
        ValueError: none, or an unknown one.
    """
    if isinstance(names, str) or not names:
        raise ValueError(f"probes must be a list of names, got {names!r}. Choose from {', '.join(PROBES)}.")
    for name in names:
        if name not in PROBES:
            raise ValueError(f"Unknown probe {name!r}. Choose from {', '.join(PROBES)}.")
    return [PROBES[name] for name in dict.fromkeys(names)]


def _names(kind: str) -> str:
    return " or ".join(repr(probe.name) for probe in PROBES.values() if getattr(probe, kind) is not None)
