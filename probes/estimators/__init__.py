"""Learned probes, as scikit-learn estimators, one a file; registry.py says what each is."""

from probes.estimators.linear import LinearProbe
from probes.estimators.mlp import MLPNumberProbe, MLPProbe
from probes.estimators.neighbours import NeighboursNumberProbe, NeighboursProbe
from probes.estimators.online_code import OnlineCodeProbe
from probes.estimators.registry import PROBES, ProbeKind, known_probes
from probes.estimators.ridge import RidgeClassProbe, RidgeProbe

__all__ = [
    "PROBES",
    "LinearProbe",
    "MLPNumberProbe",
    "MLPProbe",
    "NeighboursNumberProbe",
    "NeighboursProbe",
    "OnlineCodeProbe",
    "ProbeKind",
    "RidgeClassProbe",
    "RidgeProbe",
    "known_probes",
]
