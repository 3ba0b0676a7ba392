"""Gates on planes of bits: each takes one message in either direction and has many inputs.

A gate's inputs are opened under masks; the dealer shares the products of the masks, and the
product of the inputs is then linear in these shares (the idea of Beaver's triples, for up to
MAX_INPUTS factors).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from primia.inference.bits import Words, composite, fold, products_of
from primia.inference.correlations import Dealer, Party, constant_one
from primia.inference.messages import Step, exchange

MAX_INPUTS = 6
Received = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Run:
    """Neighbouring (G, P) pairs, lowest first, to merge into one; with P only where it is used."""

    size: int
    with_p: bool

    @property
    def masked_p(self) -> int:
        return self.size - 1 + self.with_p

    @property
    def products(self) -> int:
        """Shared products: sets of two or more p, and sets of p times one g below them all."""
        upper = self.size - 1
        return len(composite(self.masked_p)) + sum((1 << (upper - j)) - 1 for j in range(upper))


def tree(blocks: int) -> list[list[Run]]:
    """Which runs merge `blocks` pairs into the borrow of all, level by level."""
    if blocks == 1:
        return []
    if blocks <= MAX_INPUTS:
        return [[Run(blocks, False)]]
    runs = -(-blocks // MAX_INPUTS)
    sizes = [len(part) for part in np.array_split(np.arange(blocks), runs)]
    return [[Run(size, i > 0) for i, size in enumerate(sizes)], *tree(runs)]


def deal_borrow(dealer: Dealer, label: str, blocks: int, shape: tuple[int, ...]) -> None:
    """For `borrow` over planes of that shape."""
    for level, runs in enumerate(tree(blocks)):
        for i, run in enumerate(runs):
            here = f"{label}/{level}.{i}"
            upper = run.size - 1
            lam = dealer.mask_bits(f"{here}/g", (upper, *shape))
            mu = dealer.mask_bits(f"{here}/p", (run.masked_p, *shape))
            table = products_of(mu)
            parts = [table[_places(run.masked_p)]]
            # p_1 is the lowest factor: the sets of what lies above g_j are multiples of 2^j.
            parts += [
                lam[j] & table[(1 << j) - 1 : (1 << upper) - 1 : 1 << j] for j in range(upper)
            ]
            dealer.give_bits(f"{here}/products", np.concatenate(parts))


def borrow(
    party: Party, label: str, pairs: Sequence[tuple[Words, Words]]
) -> Generator[Step, Received, Words]:
    """The share of the borrow out of all blocks, given shares of each block's (G, P)."""
    pairs = list(pairs)
    for level, runs in enumerate(tree(len(pairs))):
        masked: list[Words] = []
        masks: list[tuple[Words, Words]] = []
        parts: list[list[tuple[Words, Words]]] = []
        for i, run in enumerate(runs):
            part, pairs = pairs[: run.size], pairs[run.size :]
            shape = part[0][0].shape
            lam = party.mask(f"{label}/{level}.{i}/g", (run.size - 1, *shape))
            mu = party.mask(f"{label}/{level}.{i}/p", (run.masked_p, *shape))
            factors = [p for _, p in part[1:]] + ([part[0][1]] if run.with_p else [])
            masked += [np.stack([g for g, _ in part[:-1]]) ^ lam, np.stack(factors) ^ mu]
            masks.append((lam, mu))
            parts.append(part)
        theirs = yield from exchange(masked)
        opened = [a ^ b for a, b in zip(masked, theirs, strict=True)]
        for i, run in enumerate(runs):
            shape = parts[i][0][0].shape
            products = party.share_bits(f"{label}/{level}.{i}/products", (run.products, *shape))
            one = constant_one(party)
            merged = _merge(run, masks[i], opened[2 * i : 2 * i + 2], products, one)
            pairs.append((merged[0] ^ parts[i][-1][0], merged[1]))
    return pairs[0][0]


def _merge(
    run: Run,
    masks: tuple[Words, Words],
    opened: Sequence[Words],
    products: Words,
    one: np.uint64,
) -> tuple[Words, Words]:
    """(G without its highest g, P) of a run; P is meaningless where the run has none."""
    (lam, mu), (g, p) = masks, opened
    upper = run.size - 1
    table, rest = _table(mu, products, one)
    above = table[: 1 << upper]  # sets of p_1 .. p_upper
    value = g[0] & above
    for j in range(upper):
        if j:
            above = above[::2]
            value ^= g[j] & above
        count = (1 << (upper - j)) - 1
        value[0] ^= lam[j]
        value[1:] ^= rest[:count]
        rest = rest[count:]
        value = fold(value, p[j])
    if run.with_p:
        for factor in p:
            table = fold(table, factor)
    return value[0], table[0]


def _table(mu: Words, products: Words, one: np.uint64) -> tuple[Words, Words]:
    """Shares of all products of the masks mu, and the products that are left over."""
    k = mu.shape[0]
    sets = composite(k)
    table = np.empty((1 << k, *mu.shape[1:]), np.uint64)
    table[0] = one
    for i in range(k):
        table[1 << i] = mu[i]
    table[sets] = products[: len(sets)]
    return table, products[len(sets) :]


def _places(count: int) -> list[int]:
    """Where `products_of` has what only the dealer can share."""
    return [s - 1 for s in composite(count)]


def deal_conjunction(dealer: Dealer, label: str, count: int, shape: tuple[int, ...]) -> None:
    """For `conjunction` of `count` planes of that shape."""
    for level, sizes in enumerate(_levels(count)):
        for i, size in enumerate(sizes):
            if size > 1:
                mu = dealer.mask_bits(f"{label}/{level}.{i}", (size, *shape))
                products = products_of(mu)[_places(size)]
                dealer.give_bits(f"{label}/{level}.{i}/products", products)


def conjunction(
    party: Party, label: str, bits: Sequence[Words]
) -> Generator[Step, Received, Words]:
    """The share of the AND of all planes."""
    bits = list(bits)
    for level, sizes in enumerate(_levels(len(bits))):
        starts = np.cumsum([0, *sizes])
        groups = [np.stack(bits[a:b]) for a, b in pairwise(starts)]
        masks = [
            party.mask(f"{label}/{level}.{i}", g.shape) if len(g) > 1 else g
            for i, g in enumerate(groups)
        ]
        masked = [g ^ m for g, m in zip(groups, masks, strict=True) if len(g) > 1]
        theirs = yield from exchange(masked)
        opened = iter([a ^ b for a, b in zip(masked, theirs, strict=True)])
        bits = []
        for i, mu in enumerate(masks):
            if len(mu) == 1:
                bits.append(mu[0])
                continue
            shape = (len(composite(len(mu))), *mu.shape[1:])
            products = party.share_bits(f"{label}/{level}.{i}/products", shape)
            table, _ = _table(mu, products, constant_one(party))
            for factor in next(opened):
                table = fold(table, factor)
            bits.append(table[0])
    return bits[0]


def _levels(count: int) -> list[list[int]]:
    found: list[list[int]] = []
    while count > 1:
        groups = -(-count // MAX_INPUTS)
        found.append([len(part) for part in np.array_split(np.arange(count), groups)])
        count = groups
    return found
