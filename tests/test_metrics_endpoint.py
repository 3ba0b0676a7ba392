"""Metrics: on the loopback unless asked, in Prometheus' form, each daemon on a port of its own."""

from __future__ import annotations

import urllib.request

import pytest

from primia import tally
from primia.demo.fleet import free_port
from primia.errors import ConfigError, StateError
from primia.metrics import Sample, check_address, of_process, serve


@pytest.mark.parametrize("address", ["127.0.0.1:9464", "localhost:9464", "[::1]:9464"])
def test_the_loopback_is_fine(address):
    assert check_address(address)[1] == 9464


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "[::]:9464", "192.0.2.7:9464", "host:9464"])
def test_an_address_that_others_reach_needs_to_be_asked_for(address):
    with pytest.raises(ConfigError, match="--metrics-public"):
        check_address(address)
    assert check_address(address, public=True)[1] == 9464


@pytest.mark.parametrize("address", ["9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", ":1"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError, match="give host:port"):
        check_address(address)


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as reply:
        return reply.read().decode()


def test_each_scrape_reads_anew():
    port, value = free_port(), 1.0
    stop = serve(
        ("127.0.0.1", port),
        lambda: [
            Sample("round", "the open round", value),
            Sample("attempts_total", "ended", 2, {"outcome": "aborted"}, total=True),
        ],
    )
    try:
        assert "primia_round 1.0" in scrape(port)
        value = 2.0
        found = scrape(port)
        assert "primia_round 2.0" in found
        assert "# TYPE primia_attempts_total counter" in found
        assert 'primia_attempts_total{outcome="aborted"} 2.0' in found
        with pytest.raises(StateError, match="choose another port"):
            serve(("127.0.0.1", port), list)
    finally:
        stop()


def test_bytes_and_retries_are_those_of_the_process():
    before = {
        s.labels.get("direction", "retries"): s.value for s in of_process(sent="a", received="b")
    }
    tally.add("a", 7)
    tally.add("b", 5)
    tally.add("retries")
    after = {
        s.labels.get("direction", "retries"): s.value for s in of_process(sent="a", received="b")
    }
    assert {k: after[k] - before[k] for k in after} == {"sent": 7, "received": 5, "retries": 1}
