"""From names such as "query_part@3.post" or "residual@*" to the features of a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from model import DCFormerConfig
from probes.features.feature import Feature, FeatureKind, Place
from probes.features.registry import GROUPS, KINDS


def default_features(cfg: DCFormerConfig) -> tuple[str, ...]:
    """Parts (where mixing depends on tokens), residual stream and predictions, everywhere."""
    return (*(("parts",) if cfg.dynamic_sides else ()), "residual", "predictions")


def resolve(names: Iterable[str], cfg: DCFormerConfig) -> list[Feature]:
    """The features that names mean in a model, each once, in the order given.

    Args:
        names: kind@layer.site, kind@layer.stage or kind@layer; * stands for every layer, site or stage, a kind alone
            for all its places, and a group ("parts", "factors", "gates", "predictions") for several kinds.
    Raises:
        ValueError: a name that means nothing in this model, with what there is.
    """
    found: dict[str, Feature] = {}
    for name in names:
        kind, _, wanted = name.partition("@")
        for member in _members(kind, cfg):
            for feature in _features(name, member, wanted, cfg, "@" in name):
                found[feature.name] = feature
    return list(found.values())


def _members(kind: str, cfg: DCFormerConfig) -> Sequence[str]:
    """The kinds of a group that the model has, or all where it has none: one of them then says so."""
    members = GROUPS.get(kind, (kind,))
    return [member for member in members if member in KINDS and KINDS[member].places(cfg)] or members


def _features(name: str, member: str, wanted: str, cfg: DCFormerConfig, placed: bool) -> list[Feature]:
    if member not in KINDS:
        raise ValueError(
            f"Unknown feature {name!r}. The part before the @ is one of {', '.join(KINDS)}, or a group of these: "
            f"{', '.join(GROUPS)}."
        )
    kind = KINDS[member]
    places = kind.places(cfg)
    if not places:
        raise ValueError(f"This model has no {member} ({kind.title}): {_mixes(cfg)}. Leave {name!r} out.")
    chosen = [place for place in places if _matches(wanted, place)] if placed else places
    if not chosen:
        raise ValueError(f"There is no {name!r} in this model. {_what_there_is(kind, list(places))}")
    return [kind.at(cfg, place) for place in chosen]


def _matches(wanted: str, place: Place) -> bool:
    """Is this place meant? A layer without site or stage means all of the layer's."""
    asked, had = wanted.split("."), str(place).split(".")
    if len(asked) > len(had):
        return False
    return all(one in ("*", other) for one, other in zip(asked, had))


def _what_there_is(kind: FeatureKind, places: list[Place]) -> str:
    if places == [Place()]:
        return f"{kind.name} stands alone, without a place."
    layers = sorted({place.layer for place in places if place.layer is not None})
    wheres = list(dict.fromkeys(place.where for place in places if place.where is not None))
    after = f", then {' or '.join(f'.{where}' for where in wheres)}" if wheres else ""
    return f"{kind.name} has layers {layers[0]} to {layers[-1]}{after}: {kind.name}@{places[0]}, or * for all."


def _mixes(cfg: DCFormerConfig) -> str:
    if not cfg.mixed_sites:
        return "it mixes no heads (composition is off)"
    sides = ", ".join(cfg.dynamic_sides) or "none, its mixing is static"
    return f"its mixing depends on the tokens of these sides: {sides}"
