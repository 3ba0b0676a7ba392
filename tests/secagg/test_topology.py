from __future__ import annotations

import hashlib
import itertools
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.secagg.topology import (
    COLLUDING,
    COMPLETE_UP_TO,
    FAILURE_BITS,
    LOST,
    SECURITY_BITS,
    Topology,
    ring,
    threshold,
)
from primia.types import SiteId


def names(n: int) -> tuple[SiteId, ...]:
    return tuple(SiteId(f"site-{i:04d}") for i in range(n))


def session(label: str = "one") -> bytes:
    return hashlib.sha256(label.encode()).digest()


@pytest.mark.parametrize(
    ("n", "t"), [(3, 3), (4, 3), (5, 4), (7, 5), (10, 7), (20, 14), (50, 34), (100, 67)]
)
def test_the_threshold_is_the_published_one_and_no_victim_opens_both_ways(n, t):
    assert threshold(n) == t
    colluding = (n - 1) // 3
    assert 2 * t > n + colluding
    assert colluding < t


def at_least(population: int, marked: int, drawn: int, least: int) -> float:
    """P(X >= least), X hypergeometric: the plain sum that `ring` is held against."""
    least = max(0, least)
    ways = sum(
        comb(marked, x) * comb(population - marked, drawn - x)
        for x in range(least, min(marked, drawn) + 1)
    )
    return ways / comb(population, drawn)


@pytest.mark.parametrize("n", [101, 200, 500, 1000])
def test_on_a_ring_nobody_is_opened_both_ways_and_the_round_goes_on(n):
    degree, t = ring(n)
    assert degree < n - 1
    # 2t <= holders + c opens a victim both ways.
    opened = at_least(n - 1, int(COLLUDING * n), degree, 2 * t - (degree + 1))
    assert n * opened <= 2**-SECURITY_BITS
    stuck = at_least(n - 1, int(LOST * n), degree, degree + 1 - t + 1)
    assert n * stuck <= 2**-FAILURE_BITS
    # Of t holders, those that collude and as many as may be called lost leave three honest ones.
    lonely = at_least(n - 1, int(COLLUDING * n), degree, 2 * t - (degree + 1) - 2)
    assert n * lonely <= 2**-SECURITY_BITS
    # Beside a gap there are k / 2 honest holders and itself; colluding ones in the gap open it.
    gap = at_least(n - 1, int(COLLUDING * n), degree // 2, t - degree // 2 - 1)
    assert n * gap <= 2 ** -(SECURITY_BITS // 2)


@pytest.mark.parametrize("n", [200, 500, 1000])
def test_a_ring_of_two_neighbours_less_would_not_do(n):
    degree = ring(n)[0] - 2
    for t in range(1, degree + 2):
        lonely = n * at_least(n - 1, int(COLLUDING * n), degree, 2 * t - (degree + 1) - 2)
        gap = n * at_least(n - 1, int(COLLUDING * n), degree // 2, t - degree // 2 - 1)
        stuck = n * at_least(n - 1, int(LOST * n), degree, degree + 1 - t + 1)
        holds = lonely <= 2**-SECURITY_BITS and gap <= 2 ** -(SECURITY_BITS // 2)
        assert not holds or stuck > 2**-FAILURE_BITS


def test_up_to_a_hundred_sites_everybody_is_everybodys_neighbour():
    sites = names(COMPLETE_UP_TO)
    graph = Topology(session(), sites)
    assert graph.threshold == threshold(COMPLETE_UP_TO)
    assert all(graph.holders(s) == sites for s in sites)
    assert graph.partners(sites[3]) == (*sites[:3], *sites[4:])


@pytest.mark.parametrize("n", [101, 240])
def test_a_ring_is_mutual_and_every_site_has_the_same_number_of_neighbours(n):
    sites = names(n)
    graph = Topology(session(), sites)
    degree, _ = ring(n)
    holders = {s: set(graph.holders(s)) for s in sites}
    for site in sites:
        assert site in holders[site]
        assert len(holders[site]) == degree + 1
        assert list(graph.holders(site)) == sorted(holders[site])
        assert set(graph.partners(site)) == holders[site] - {site}
        assert all(site in holders[other] for other in holders[site])


def test_the_graph_comes_from_the_session_and_from_nothing_the_coordinator_may_choose():
    sites = names(150)
    one = Topology(session(), sites)
    again = Topology(session(), sites)
    other = Topology(session("two"), sites)
    assert all(one.holders(s) == again.holders(s) for s in sites)
    changed = sum(one.holders(s) != other.holders(s) for s in sites)
    assert changed == len(sites)


def test_neighbours_are_spread_evenly_over_sessions():
    """Each other site is a neighbour in degree of n-1 sessions; 300 sessions, a band of 5.5
    standard deviations (4e-8 each side), 149 sites: a false alarm in 90,000 runs."""
    sites = names(150)
    degree, _ = ring(150)
    sessions = 300
    counts = dict.fromkeys(sites[1:], 0)
    for i in range(sessions):
        for other in Topology(session(str(i)), sites).partners(sites[0]):
            counts[other] += 1
    p = degree / 149
    spread = 5.5 * (sessions * p * (1 - p)) ** 0.5
    assert all(abs(c - sessions * p) < spread for c in counts.values())


@settings(max_examples=50, deadline=None)
@given(st.integers(9, 40), st.integers(3, 13), st.binary(min_size=32, max_size=32))
def test_groups_divide_the_sites_evenly_and_mask_among_themselves(n, count, key):
    count = min(count, n // 3)
    sites = names(n)
    graph = Topology(key, sites, count)
    assert sorted(itertools.chain(*graph.groups)) == list(sites)
    assert {len(g) for g in graph.groups} <= {n // count, -(-n // count)}
    for site in sites:
        group = graph.groups[graph.group_of(site)]
        assert set(graph.partners(site)) == set(group) - {site}
        assert graph.holders(site) == sites  # secrets are shared with all, whatever the groups


def test_survivors_are_divided_as_the_groups_are():
    sites = names(9)
    graph = Topology(session(), sites, 3)
    gone = graph.groups[1][0]
    left = graph.survivors_by_group([s for s in sites if s != gone])
    assert left == (graph.groups[0], graph.groups[1][1:], graph.groups[2])


def test_groups_of_a_large_study_are_refused():
    with pytest.raises(ValueError, match="up to 100"):
        Topology(session(), names(101), 3)
