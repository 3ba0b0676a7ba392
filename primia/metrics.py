"""Prometheus metrics of a daemon, on the loopback: what it is doing, for whoever runs the machine.

No series is about a patient, and none counts patients or films.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from primia import tally
from primia.errors import ConfigError, StateError

if TYPE_CHECKING:
    from cryptography import x509

PREFIX = "primia_"


@dataclass(frozen=True)
class Sample:
    """One number. total: it only grows; labels: from a fixed set, or names of sites."""

    name: str
    help: str
    value: float
    labels: dict[str, str] = field(default_factory=dict)
    total: bool = False


def check_address(address: str, *, public: bool = False) -> tuple[str, int]:
    """Split host:port. Raises ConfigError, also when others reach it, unless `public`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"--metrics {address}: give host:port, such as 127.0.0.1:9464")
    if not public and not _is_loopback(host.strip("[]")):
        raise ConfigError(
            f"--metrics {address} can be reached from other machines, and the metrics have no "
            "password; use 127.0.0.1, or add --metrics-public if a firewall guards the port"
        )
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(address: tuple[str, int], read: Callable[[], Iterable[Sample]]) -> Callable[[], None]:
    """Serve what `read` gives at each scrape, in a thread of its own; call the result to stop.

    Raises StateError when the address cannot be had.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(read))
    host, port = address
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as err:
        raise StateError(
            f"cannot serve metrics at {host}:{port}: {err.strerror}; choose another port with "
            "--metrics, each daemon needs its own"
        ) from err

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


class _Collector:
    """What prometheus_client asks at each scrape."""

    def __init__(self, read: Callable[[], Iterable[Sample]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        found: dict[str, Any] = {}
        for sample in self._read():
            name = PREFIX + sample.name
            if name not in found:
                family = CounterMetricFamily if sample.total else GaugeMetricFamily
                found[name] = family(name, sample.help, labels=list(sample.labels))
            found[name].add_metric(list(sample.labels.values()), sample.value)
        yield from found.values()


def of_process(*, sent: str, received: str) -> Iterator[Sample]:
    """Bytes of models and updates, and broken calls, since the process started.

    sent, received: the words of the tally for this side.
    """
    moved = "bytes of models and masked updates since the start"
    yield Sample("bytes_total", moved, tally.count(sent), {"direction": "sent"}, total=True)
    yield Sample("bytes_total", moved, tally.count(received), {"direction": "received"}, total=True)
    yield Sample(
        "retries_total", "calls tried again since the start", tally.count("retries"), total=True
    )


def certificate_days(certificate: x509.Certificate, whose: str) -> Sample:
    """Days until a certificate runs out; below 0 afterwards."""
    left = (certificate.not_valid_after_utc - datetime.now(UTC)).total_seconds() / 86400
    return Sample("certificate_days_left", "days until it runs out", left, {"whose": whose})
