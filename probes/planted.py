"""Models whose head composition is known because it was built by hand: what a method must find, and must not.

A planted model has two layers. In one of them, at one site, one branch does one thing at the tokens of one class, the
trigger; at every other pair, site and layer M is the identity. Which layer, heads and tokens is drawn from the seed.

How the weights do it. A token's embedding is a large constant, its class and its identity, each in dimensions of its
own; heads write to further dimensions, the only ones that the unembedding reads. The constant is so large that it
alone makes every norm's divisor, and the norms' weights undo it: a normalised activation is the residual stream
itself, with 1 in the constant's place. So mixing networks read the class exactly, and logits are linear in what heads
write. Each head looks at keys of a class of its own, and writes which class it saw in directions of its own.

Axes: P prompt, T position, V vocabulary, L layer, N head, C class, R rank, K d_head, D d_model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model import DCFormerConfig, HookedDCFormer
from model.attention import ComposedAttention
from model.config import parse_dtype
from probes.examples import Example

LAYERS, HEADS, CLASSES, VOCABULARY = 2, 5, 6, 30
D_HEAD, D_MODEL = CLASSES + 2, 56
PROMPTS, LENGTH, TRIGGERS = 4, 16, 3
OPENING = 6
"""Tokens at the start of a prompt that are never triggers."""

# where each part of the residual stream lies; what heads write has the rest
CONSTANT = 0
CLASS = slice(1, 1 + CLASSES)
IDENTITY = slice(CLASS.stop, CLASS.stop + VOCABULARY)
WRITTEN = slice(IDENTITY.stop, D_MODEL)
CONSTANT_SIZE = 1024.0
"""What stands beside it, of squared length up to about 30, changes a norm's divisor by 30 / (2 * 1024^2) of itself."""

ANSWER = 3.0
"""Logit difference, in logits, between seeing nothing and seeing only the class that the plant is about."""
SHARPNESS = 3.0
"""Score, in nats, of keys of the class that a head looks at, above all others."""
LOUD = 10.0
"""What enters a GELU or, doubled, a tanh at a trigger: so far out the one is linear and the other is 1."""

METHODS = {
    "branch ablation": "the change of the logit difference when a branch of a layer and site is zeroed",
    "edge ablation": "the change of the logit difference when one entry of M becomes the identity's",
    "gradient attribution": "gradient of the logit difference with respect to M's entries, times (M - I)",
    "virtual-head attribution": "what the pattern of each source carried by each target adds to the logit difference",
    "score decomposition": "what the raw score of each source adds to each target's composed score",
    "composition patching": "the change of the logit difference when mixing is that of the corrupted prompt",
    "distance from identity": "how far M is from the identity, as a norm",
    "off-diagonal mass": "the share of M's squared entries off the diagonal",
    "query/key share": "the shares of the query and of the key token in the variance of M (centred split)",
}
"""Methods by name. Read as a difference to the uncomposed twin, where M = I: 0 means that the method sees nothing."""


@dataclass(frozen=True)
class Voice:
    """What the plant's heads say for the answer (positive) or the contrast, as multiples of ANSWER.

    What the plant is about counts 1. Heads also speak elsewhere, so that what a head is worth and what the plant is
    worth differ: were it not so, cutting a whole head could do as much as cutting the planted edge.

    own: the target head, at keys of the class that it looks at. rest: the target head, at other keys. source_rest: the
    source head, at keys of a class that it does not look at. sharpness: the target's, see SHARPNESS.
    """

    own: float = 0.0
    rest: float = 0.0
    source_rest: float = 0.0
    sharpness: float = SHARPNESS


@dataclass(frozen=True)
class Recipe:
    """One kind of plant.

    story: what composition does, in a sentence. site, branch: where; None = nowhere, or everywhere. factors: source
    and target head -> (read, write), each [H], whose outer product is M - I at a trigger. voice: what its heads write.
    blind: of METHODS, those that cannot see it, and why.
    """

    story: str
    site: str | None = None
    branch: str | None = None
    factors: Callable[[int, int], tuple[Tensor, Tensor]] | None = None
    voice: Voice = field(default_factory=Voice)
    blind: dict[str, str] = field(default_factory=dict)

    @property
    def side(self) -> str | None:
        """The token that is the trigger: of the query or of the key."""
        return None if self.branch is None else self.branch.split("_")[0]

    def matrix(self, source: int, target: int) -> Tensor:
        """M at a trigger, [H, H] in float64."""
        identity = torch.eye(HEADS, dtype=torch.float64)
        return identity if self.factors is None else identity + torch.outer(*self.factors(source, target))


def _moved(source: int, target: int) -> tuple[Tensor, Tensor]:
    return _one_hot(source), _one_hot(target)


def _switched_off(source: int, target: int) -> tuple[Tensor, Tensor]:
    return _one_hot(target), -_one_hot(target)


def _swapped(source: int, target: int) -> tuple[Tensor, Tensor]:
    return _one_hot(source) - _one_hot(target), _one_hot(target) - _one_hot(source)


def _one_hot(head: int) -> Tensor:
    return torch.eye(HEADS, dtype=torch.float64)[head]


# a source head cut off from its scores attends to all keys alike: other keys then make up for the one that it carried
_CARRIED = Voice(own=-0.3, rest=0.5, source_rest=0.3)
# attending to all keys alike, which is what a head does without its scores, says next to nothing
_SWITCHED = Voice(rest=-0.3, sharpness=4.0)
# a key whose score moves to the target takes attention from the target's own class, which says the opposite
_WON = Voice(own=-1.0, sharpness=1.5)

_BEFORE = {"virtual-head attribution": "It takes the raw pattern as given, and that is already after pre-mixing."}
_AFTER = {"score decomposition": "Scores are mixed before the softmax, and this plant only mixes after it."}
_DIAGONAL = {"off-diagonal mass": "Only the diagonal of M changes: no head reads another."}

RECIPES = {
    "moved after a token": Recipe(
        "At trigger queries the target head also carries the pattern of the source head.",
        "post", "query_lowrank", _moved, _CARRIED, _AFTER,
    ),
    "switched off": Recipe(
        "At trigger queries the target head's pattern is multiplied by 0.",
        "post", "query_gate", _switched_off, _SWITCHED, _AFTER | _DIAGONAL,
    ),
    "switched off before softmax": Recipe(
        "At trigger queries the target head's scores are multiplied by 0, so that it looks at all keys alike.",
        "pre", "query_gate", _switched_off, _SWITCHED, _BEFORE | _DIAGONAL,
    ),
    "swapped by key": Recipe(
        "At trigger keys the source and the target head have each other's pattern.",
        "post", "key_lowrank", _swapped, _CARRIED, _AFTER,
    ),
    "swapped by key before softmax": Recipe(
        "At trigger keys the source and the target head have each other's scores.",
        "pre", "key_lowrank", _swapped, _WON, _BEFORE,
    ),
    "nothing": Recipe(
        "Low-rank branches with large factors whose two channels cancel: M is the identity at every pair.",
        blind=dict.fromkeys(METHODS, "M is the identity at every pair, so there is nothing to see."),
    ),
    "random": Recipe("Random weights throughout, with strong mixing by every branch everywhere: no edge stands out."),
}  # fmt: skip
PLANTS = tuple(RECIPES)
"""Names of the plants. The last two are baselines: where a method must find nothing, and where no edge is the one."""

VISIBLE = {method: {name: method not in recipe.blind for name, recipe in RECIPES.items()} for method in METHODS}
"""Method -> plant -> can it see the plant at all? Reasons where it cannot: RECIPES[plant].blind[method]."""


@dataclass(frozen=True)
class Plant:
    """A model, what was planted in it, and prompts to find it with.

    layer, site, branch, side: where the plant is; None for "nothing" and "random".
    edges: entries (source, target) of M that differ from the identity's at a trigger, the most important one first.
    matrix: M at a trigger, [H, H], source x target; the identity for "nothing", None for "random".
    trigger_tokens: ids. prompts: [prompt, pos]; corrupted: the same with other tokens in the triggers' places.
    trigger_positions: of each prompt, in order, [prompt, TRIGGERS].
    answer, contrast: ids of the tokens between whose logits the plant makes a difference.
    """

    name: str
    seed: int
    model: HookedDCFormer
    layer: int | None
    site: str | None
    branch: str | None
    side: str | None
    edges: tuple[tuple[int, int], ...]
    matrix: Tensor | None
    trigger_tokens: tuple[int, ...]
    prompts: Tensor
    corrupted: Tensor
    trigger_positions: Tensor
    answer: int
    contrast: int

    @property
    def cfg(self) -> DCFormerConfig:
        return self.model.cfg

    @property
    def story(self) -> str:
        """What composition does, in a sentence."""
        return RECIPES[self.name].story

    @property
    def visible_to(self) -> dict[str, bool]:
        """Method -> can it see this plant at all?"""
        return {method: visible[self.name] for method, visible in VISIBLE.items()}

    @property
    def blind(self) -> dict[str, str]:
        """The methods that cannot, each with the reason."""
        return RECIPES[self.name].blind

    def logit_difference(self, logits: Tensor) -> Tensor:
        """Logit of the answer minus that of the contrast, [...] for logits [..., d_vocab]."""
        return logits[..., self.answer] - logits[..., self.contrast]

    def at_triggers(self, values_PT: Tensor) -> Tensor:
        """Values at the trigger positions of every prompt, [prompt, TRIGGERS]."""
        return values_PT.gather(1, self.trigger_positions)

    def examples(self, corrupted: bool = False) -> list[Example]:
        """Each prompt up to each of its triggers, and then the answer, for sweep and attribute.

        Args:
            corrupted: from the corrupted prompts, in the same order: the donors for patching.
        """
        rows = (self.corrupted if corrupted else self.prompts).tolist()
        return [
            Example((*row[: place + 1], self.answer), (place + 1,), (0,), (self.contrast,))
            for row, places in zip(rows, self.trigger_positions.tolist(), strict=True)
            for place in places
        ]


def planted(name: str, seed: int, dtype: str | torch.dtype = "float32") -> Plant:
    """Build a plant; the same name and seed give the same one.

    Args:
        name: one of PLANTS.
        seed: decides layer, heads, classes, tokens and prompts.
        dtype: of the weights; M is exact to 1e-4 in float32 and float64.
    Raises:
        ValueError: an unknown name or dtype.
    """
    if name not in RECIPES:
        raise ValueError(f"Unknown plant {name!r}. Choose one of {', '.join(PLANTS)}.")
    recipe, wanted = RECIPES[name], parse_dtype(dtype)
    generator = torch.Generator().manual_seed(seed)
    cast = Cast.drawn(recipe, generator)
    # in float64 first, so that a seed means the same plant in every dtype
    model = _random_model(seed, generator) if name == "random" else _built_model(recipe, cast, generator)
    if name == "nothing":
        _cancel(model, generator)
    prompts, corrupted, positions = cast.prompts(generator)
    return Plant(
        name=name, seed=seed, model=model.to(wanted), layer=cast.layer if recipe.site else None,
        site=recipe.site, branch=recipe.branch, side=recipe.side, edges=_edges(recipe, cast),
        matrix=None if name == "random" else recipe.matrix(cast.source, cast.target).float(),
        trigger_tokens=tuple(cast.tokens_of(cast.trigger).tolist()), prompts=prompts, corrupted=corrupted,
        trigger_positions=positions, answer=cast.answer, contrast=cast.contrast,
    )  # fmt: skip


def _edges(recipe: Recipe, cast: Cast) -> tuple[tuple[int, int], ...]:
    """The changed entries of M: what the target gets from the source, what the source loses, and the way back."""
    g, h = cast.source, cast.target
    changed = recipe.matrix(g, h) != torch.eye(HEADS)
    return tuple(edge for edge in ((g, h), (g, g), (h, g), (h, h)) if changed[edge])


# -- who plays which part --------------------------------------------------------------------------


@dataclass(frozen=True)
class Cast:
    """The parts that are drawn from the seed.

    classes: of each token, [V]. looks_at: the class that each head looks at, [L, N]. layer, source, target: of the
    plant. trigger: its class. seen: the class that the target sees, or fails to see, by the plant.
    """

    classes: Tensor
    looks_at: Tensor
    layer: int
    source: int
    target: int
    trigger: int
    seen: int
    answer: int
    contrast: int

    @classmethod
    def drawn(cls, recipe: Recipe, generator: torch.Generator) -> Cast:
        def order(n: int) -> Tensor:
            return torch.randperm(n, generator=generator)

        classes = order(VOCABULARY) % CLASSES
        looks_at = torch.stack([order(CLASSES)[:HEADS] for _ in range(LAYERS)])
        layer = int(order(LAYERS)[0])
        source, target = order(HEADS)[:2].tolist()
        own, other = int(looks_at[layer, target]), int(looks_at[layer, source])
        free = [c for c in order(CLASSES).tolist() if c not in (own, other)]
        answer, contrast = order(VOCABULARY)[:2].tolist()
        by_key = recipe.branch == "key_lowrank"
        return cls(
            classes, looks_at, layer, source, target, trigger=other if by_key else free[0],
            seen=own if recipe.branch == "query_gate" else other, answer=answer, contrast=contrast,
        )  # fmt: skip

    def tokens_of(self, *classes: int) -> Tensor:
        """Ids of the tokens of some classes."""
        return torch.isin(self.classes, torch.tensor(classes)).nonzero()[:, 0]

    def prompts(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(prompts, corrupted prompts, both [P, T], trigger positions [P, TRIGGERS])."""
        heads = self.looks_at[self.layer, [self.source, self.target]].tolist()
        needed = [c for c in heads if c != self.trigger]
        others = [c for c in range(CLASSES) if c != self.trigger]
        bystanders = [c for c in others if c not in heads]

        def some(n: int, *classes: int) -> Tensor:
            tokens = self.tokens_of(*classes)
            return tokens[torch.randint(len(tokens), (PROMPTS, n), generator=generator)]

        # two keys for both heads, before any trigger
        opening = torch.cat([*(some(2, c) for c in needed), some(OPENING - 2 * len(needed), *others)], 1)
        corrupted = torch.cat([_shuffled(opening, generator), some(LENGTH - OPENING, *others)], 1)
        places = OPENING + torch.rand(PROMPTS, LENGTH - OPENING, generator=generator).argsort(1)[:, :TRIGGERS]
        places = places.sort(1).values
        corrupted = corrupted.scatter(1, places, some(TRIGGERS, *bystanders))
        return corrupted.scatter(1, places, some(TRIGGERS, self.trigger)), corrupted, places


def _shuffled(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Each row in an order of its own."""
    return rows.gather(1, torch.rand(rows.shape, generator=generator).argsort(1))


# -- weights ---------------------------------------------------------------------------------------


def _config() -> DCFormerConfig:
    return DCFormerConfig.from_architecture(
        "llama", n_layers=LAYERS, n_heads=HEADS, d_head=D_HEAD, d_model=D_MODEL, d_mlp=8, d_vocab=VOCABULARY,
        n_ctx=64, positional_embedding_type="standard", use_qk_norm=False, dtype=torch.float64, model_name="planted",
    )  # fmt: skip


@torch.no_grad()
def _random_model(seed: int, generator: torch.Generator) -> HookedDCFormer:
    """Weights as at the start of a training, but for mixing, which is strong everywhere."""
    model = HookedDCFormer(_config(), seed=seed)
    for block in model.blocks:
        for weight in (block.attn.mix_factors, block.attn.mix_gates):
            weight.copy_(0.4 * _normal(generator, *weight.shape))
    return model


@torch.no_grad()
def _built_model(recipe: Recipe, cast: Cast, generator: torch.Generator) -> HookedDCFormer:
    model = HookedDCFormer(_config(), seed=None)
    for weight in model.parameters():
        weight.zero_()
    _embed(model, cast)
    _transparent_norms(model)
    model.unembed.weight[:, WRITTEN] = _unit(_normal(generator, VOCABULARY, D_MODEL - WRITTEN.start))
    for layer, block in enumerate(model.blocks):
        _look(block.attn, cast.looks_at[layer], generator)
        _write(block.attn, generator)
    attn = model.blocks[cast.layer].attn
    _speak(model, attn, recipe.voice, cast)
    if recipe.branch == "query_gate":
        _gate(attn, recipe, cast)
    elif recipe.branch is not None:
        _lowrank(attn, recipe, cast, generator)
    return model


def _embed(model: HookedDCFormer, cast: Cast) -> None:
    model.embed.W_E[:, CONSTANT] = CONSTANT_SIZE
    model.embed.W_E[:, CLASS] = torch.eye(CLASSES, dtype=torch.float64)[cast.classes]
    model.embed.W_E[:, IDENTITY] = torch.eye(VOCABULARY, dtype=torch.float64)


def _transparent_norms(model: HookedDCFormer) -> None:
    """Norms give what they get, and 1 for the constant. MLPs add nothing, whatever theirs give."""
    divisor = CONSTANT_SIZE / D_MODEL**0.5
    for norm in (*(block.ln1 for block in model.blocks), *(block.ln2 for block in model.blocks), model.ln_final):
        norm.w.fill_(divisor)
        norm.w[CONSTANT] = divisor / CONSTANT_SIZE


def _look(attn: ComposedAttention, looks_at_N: Tensor, generator: torch.Generator) -> None:
    """Queries and keys: each head likes keys of its class, and has a taste of its own for pairs of tokens."""
    for head, seen in enumerate(looks_at_N.tolist()):
        attn.W_Q[head, CONSTANT, 0] = D_HEAD**0.5
        attn.W_K[head, CLASS.start + seen, 0] = SHARPNESS
        for weight in (attn.W_Q, attn.W_K):
            weight[head, IDENTITY, 1:] = 0.7 * _normal(generator, VOCABULARY, D_HEAD - 1)


def _write(attn: ComposedAttention, generator: torch.Generator) -> None:
    """Values say which class was seen, and in two more dimensions a little of which token, and of earlier layers."""
    width = D_MODEL - WRITTEN.start
    for head in range(HEADS):
        attn.W_V[head, CLASS, :CLASSES] = torch.eye(CLASSES, dtype=torch.float64)
        attn.W_V[head, IDENTITY, CLASSES:] = _normal(generator, VOCABULARY, D_HEAD - CLASSES)
        attn.W_V[head, WRITTEN, CLASSES:] = 0.1 * _normal(generator, width, D_HEAD - CLASSES)
        attn.W_O[head, :CLASSES, WRITTEN] = 0.4 * _normal(generator, CLASSES, width)
        attn.W_O[head, CLASSES:, WRITTEN] = 0.1 * _normal(generator, D_HEAD - CLASSES, width)


def _speak(model: HookedDCFormer, attn: ComposedAttention, voice: Voice, cast: Cast) -> None:
    """The two heads of the plant write along the difference of the answer's and the contrast's directions."""
    direction_D = model.unembed.weight[cast.answer] - model.unembed.weight[cast.contrast]
    along_D = ANSWER * direction_D / direction_D.square().sum()
    by_source, by_target = cast.looks_at[cast.layer, [cast.source, cast.target]].tolist()
    source_CD, target_CD = attn.W_O[cast.source, :CLASSES], attn.W_O[cast.target, :CLASSES]
    source_CD[torch.arange(CLASSES) != by_source] += voice.source_rest * along_D
    target_CD += voice.rest * along_D
    target_CD[by_target] = voice.own * along_D
    target_CD[cast.seen] = along_D
    attn.W_K[cast.target, CLASS.start + by_target, 0] = voice.sharpness


# -- mixing networks -------------------------------------------------------------------------------


def _lowrank(attn: ComposedAttention, recipe: Recipe, cast: Cast, generator: torch.Generator) -> None:
    """One hidden unit fires at triggers; its product down^T up, shared out over the channels, is M - I there."""
    assert recipe.factors is not None
    read_N, write_N = recipe.factors(cast.source, cast.target)
    network, rank = _network(attn, recipe), attn.cfg.rank
    attn.mix_hidden[network, 0, 0, CLASS.start + cast.trigger] = LOUD
    signs_R = torch.randint(2, (rank,), generator=generator) * 2.0 - 1
    shares_R = _normal(generator, rank).softmax(0)
    # down is divided by this when it is normalised over heads, so up is multiplied by it
    rms = read_N.square().mean().sqrt()
    attn.mix_factors[network, 0, 0, :rank] = signs_R[:, None] * read_N
    attn.mix_factors[network, 0, 0, rank:] = (signs_R * shares_R)[:, None] * write_N * rms / LOUD


def _gate(attn: ComposedAttention, recipe: Recipe, cast: Cast) -> None:
    """tanh of a large negative number at triggers, of 0 elsewhere."""
    attn.mix_gates[_network(attn, recipe), cast.target, CLASS.start + cast.trigger] = -2 * LOUD


@torch.no_grad()
def _cancel(model: HookedDCFormer, generator: torch.Generator) -> None:
    """Every low-rank branch is as large as in a model that mixes, but its second channel takes back the first."""
    for block in model.blocks:
        hidden, factors = block.attn.mix_hidden, block.attn.mix_factors
        hidden[..., CLASS] = _normal(generator, *hidden[..., CLASS].shape)
        down, up = _normal(generator, *factors[..., :1, :].shape), _normal(generator, *factors[..., :1, :].shape)
        factors.copy_(torch.cat([down, down, up, -up], -2))


def _network(attn: ComposedAttention, recipe: Recipe) -> int:
    return next(n for n, own in enumerate(attn.networks) if own == (recipe.site, recipe.side))


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)
