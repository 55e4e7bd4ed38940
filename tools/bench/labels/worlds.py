"""Votes whose truth is known: sources of different skill that share errors, confuse classes and abstain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, softmax

from ecmf_pipeline.core.arrays import Floats, Ints


@dataclass(frozen=True, slots=True)
class World:
    """How votes come about.

    Attributes:
        name: What is special about it.
        skills: How often each source is right, on average over the classes; its length is the number of sources.
        classes: K.
        clips: n.
        imbalance: 0: all classes alike; 1: the k-th class has a share proportional to 1 / k.
        shared: Share of the variance of each source's error that all sources have in common.
        family: Share of it that neighbours (sources 0 and 1, 2 and 3, ...) have in common besides.
        confusion: Spread over the classes of a source's skill; its wrong votes prefer certain classes just as much.
        abstains: Share of clips each source says nothing of, the last source twice as many.
        soft: Whether votes are probabilities; otherwise they are one label each.
        sharpness: What a soft source's log-probabilities are multiplied by: above 1 it is too sure of itself.
        prefix: Share of votes of the last source that are its favourite class, whatever the clip.
    """

    name: str
    skills: tuple[float, ...]
    classes: int = 6
    clips: int = 4000
    imbalance: float = 0.5
    shared: float = 0.2
    family: float = 0.2
    confusion: float = 0.15
    abstains: float = 0.1
    soft: bool = True
    sharpness: float = 1.5
    prefix: float = 0.0


_MIXED = (0.75, 0.65, 0.6, 0.5, 0.45, 0.35)

WORLDS = (
    World("plain", _MIXED),
    World("one label each", _MIXED, soft=False),
    World("three sources", (0.7, 0.6, 0.5)),
    World("three sources, one label each", (0.7, 0.6, 0.5), soft=False),
    World("eight sources", (0.75, 0.7, 0.6, 0.6, 0.5, 0.5, 0.4, 0.3)),
    World("eight sources, one label each", (0.75, 0.7, 0.6, 0.6, 0.5, 0.5, 0.4, 0.3), soft=False),
    World("independent", _MIXED, shared=0.0, family=0.0),
    World("independent, one label each", _MIXED, shared=0.0, family=0.0, soft=False),
    World("errors in common", _MIXED, shared=0.6, family=0.2),
    World("errors in common, one label each", _MIXED, shared=0.6, family=0.2, soft=False),
    World("twins", (0.65, 0.65, 0.55, 0.55, 0.45, 0.45), shared=0.0, family=0.9),
    World("twins, one label each", (0.65, 0.65, 0.55, 0.55, 0.45, 0.45), shared=0.0, family=0.9, soft=False),
    World("one good source among weak ones", (0.85, 0.35, 0.3, 0.3, 0.3)),
    World("one good source among weak ones, one label each", (0.85, 0.35, 0.3, 0.3, 0.3), soft=False),
    World("all alike", (0.55,) * 5),
    World("all alike, one label each", (0.55,) * 5, soft=False),
    World("all weak", (0.4, 0.35, 0.35, 0.3, 0.3)),
    World("all weak, one label each", (0.4, 0.35, 0.35, 0.3, 0.3), soft=False),
    World("all good", (0.9, 0.88, 0.85, 0.85)),
    World("classes confused", _MIXED, confusion=0.4),
    World("classes confused, one label each", _MIXED, confusion=0.4, soft=False),
    World("rare classes", _MIXED, imbalance=1.5),
    World("rare classes, one label each", _MIXED, imbalance=1.5, soft=False),
    World("half abstain", _MIXED, abstains=0.4),
    World("half abstain, one label each", _MIXED, abstains=0.4, soft=False),
    World("too sure", _MIXED, sharpness=5.0),
    World("too shy", _MIXED, sharpness=0.4),
    World("a source that likes one class, one label each", (0.7, 0.6, 0.55, 0.3), prefix=0.6, soft=False),
    World("two classes", (0.8, 0.75, 0.65, 0.6), classes=2),
    World("two classes, one label each", (0.8, 0.75, 0.65, 0.6), classes=2, soft=False),
    World("ten classes, one label each", (0.7, 0.6, 0.5, 0.4), classes=10, clips=8000, soft=False),
    World("many clips", _MIXED, clips=20000),
)
"""The settings that `tools.bench.labels` compares the methods in. The method was chosen by them, on seeds 0 and 1."""


def drawn_worlds(count: int, seed: int) -> tuple[World, ...]:
    """Settings that nobody thought of: all properties drawn at random, so that none can have been favoured."""
    rng = np.random.default_rng(seed)
    worlds = []
    for number in range(count):
        classes, sources = int(rng.choice([2, 3, 6, 8])), int(rng.integers(3, 9))
        shared = float(rng.uniform(0, 0.5))
        soft = bool(rng.random() < 0.5)
        skills = rng.uniform(1 / classes + 0.1, 0.85, sources).round(2)
        worlds.append(
            World(
                f"drawn {number + 1}: {sources} sources, {classes} classes{'' if soft else ', one label each'}",
                tuple(skills.tolist()),
                classes=classes,
                imbalance=float(rng.uniform(0, 1.5)),
                shared=shared,
                family=float(rng.uniform(0, 0.9 - shared)),
                confusion=float(rng.uniform(0, 0.35)),
                abstains=float(rng.uniform(0, 0.4)),
                soft=soft,
                sharpness=float(np.exp(rng.uniform(np.log(0.4), np.log(5.0)))),
            )
        )
    return tuple(worlds)


def generate(world: World, seed: int) -> tuple[dict[str, Floats], Ints]:
    """The votes of every source, (n, K) each, NaN where it abstains, and the truth, (n,).

    A source scores each class: the true one gets what makes its skill, every class noise, partly shared; its first
    choice is the highest score, its probabilities the scores' softmax.
    """
    rng = np.random.default_rng([seed, len(world.name), *world.name.encode()])
    clips, classes = world.clips, world.classes
    prior = 1 / (1 + np.arange(classes)) ** world.imbalance
    truth: Ints = rng.choice(classes, clips, p=prior / prior.sum()).astype(np.int64)
    common = rng.normal(size=(clips, classes))
    pair = common
    own = 1.0 - world.shared - world.family
    votes = {}
    for number, skill in enumerate(world.skills):
        if number % 2 == 0:
            pair = rng.normal(size=(clips, classes))
        noise = np.sqrt(world.shared) * common + np.sqrt(world.family) * pair
        noise = noise + np.sqrt(max(own, 0.0)) * rng.normal(size=(clips, classes))
        lift = _lift(np.clip(skill + world.confusion * rng.uniform(-1, 1, classes), 0.05, 0.97), classes)
        leaning = 2 * world.confusion * rng.normal(size=(classes, classes))  # by true class: which wrong ones
        np.fill_diagonal(leaning, lift)
        score = leaning[truth] + noise
        probs = softmax(2 * world.sharpness * score, axis=1)
        if world.prefix and number == len(world.skills) - 1:
            probs[rng.random(clips) < world.prefix] = np.eye(classes)[rng.integers(classes)]
        if not world.soft:
            probs = np.eye(classes)[probs.argmax(axis=1)]
        silent = world.abstains * (2 if number == len(world.skills) - 1 else 1)
        probs[rng.random(clips) < silent] = np.nan
        votes[f"source{number}"] = probs
    return votes, truth


def _lift(skill: Floats, classes: int) -> Floats:
    """By how much the true class's score must lead for it to win with these probabilities, (K,)."""
    lifts = np.linspace(-1.0, 6.0, 141)
    points, weights = np.polynomial.hermite_e.hermegauss(31)
    wins = ((weights / weights.sum()) * ndtr(points + lifts[:, None]) ** (classes - 1)).sum(axis=1)
    found: Floats = np.interp(skill, wins, lifts)
    return found


def gold_sample(truth: Ints, share: float, seed: int) -> Ints:
    """The truth of a random share of the clips, -1 for the rest, (n,)."""
    rng = np.random.default_rng(seed)
    gold = np.full(len(truth), -1)
    chosen = rng.permutation(len(truth))[: round(share * len(truth))]
    gold[chosen] = truth[chosen]
    return gold
