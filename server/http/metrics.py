"""The metrics, in Prometheus' form. Where tusd counts the same, the name is tusd's, so its dashboards go on working.

No label carries an id, a name or a secret; each has a few fixed values. docs/reference/metrics.md is made from this.
"""

import operator
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric, UnknownMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from dropoff_tus.errors import DropoffError
from dropoff_tus.model import Run, Tally
from dropoff_tus.outbox import Backlog, Outcome, SinkName
from dropoff_tus.states import UploadState
from server.places import Volume
from server.usecases.ports import Counts

_OF_TUS = frozenset({"dropoff", "upload", "receipt", "download"})
disable_created_metrics()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class CatalogView:
    """The catalog's answers to one scrape."""

    backlog: Sequence[Backlog]
    tally: Sequence[Tally]
    runs: Sequence[Run]


@dataclass(frozen=True, slots=True)
class MachineView:
    """The machine as one scrape finds it."""

    volumes: Sequence[Volume]
    floor_bytes: int
    certificate_end: datetime | None


class _SameAsTusd(Collector):
    """Counters whose names do not end in `_total`, since tusd's do not; so Prometheus' text form calls them untyped."""

    def __init__(self) -> None:
        self.received_bytes = 0
        self.counts = Counts()

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        for name, text, value in (
            ("tusd_bytes_received", "Bytes of uploads received from clients.", self.received_bytes),
            ("tusd_uploads_created", "Uploads created, parts too.", self.counts.created),
            ("tusd_uploads_finished", "Uploads that became complete, parts too.", self.counts.finished),
            ("tusd_uploads_terminated", "Uploads that their clients ended.", self.counts.terminated),
        ):
            yield UnknownMetricFamily(name, text, value)


class Metrics:
    """The counters, and gauges that `show` sets at a scrape."""

    def __init__(self) -> None:
        """Make a registry of our own."""
        self.registry = CollectorRegistry()
        self.audit_problem: str | None = None
        """Why no checkpoint of the audit is signed, or None."""
        self.store_problem: str | None = None
        """What catalog and store lack of each other, or None."""
        self._tusd = _SameAsTusd()
        self.registry.register(self._tusd)
        ProcessCollector(registry=self.registry)
        built = self._gauge("dropoff_build_info", "1; the labels say what runs.", "version", "python")
        built.labels(version("dropoff-tus"), platform.python_version()).set(1)

        # Requests.
        self._of_tus = self._counter("tusd_requests", "Requests to the tus routes.", "method")
        self._errors = self._counter("tusd_errors", "Refusals of every route, by their code.", "status", "code")
        self._requests = self._counter("dropoff_requests", "Requests answered.", "route", "method", "status")
        self._seconds = Histogram("dropoff_request_seconds", "Time to answer.", ["method"], registry=self.registry)
        self.running = self._gauge("dropoff_requests_running", "Requests being answered.")
        self._connections = self._gauge("tusd_connections_open", "Connections to the public listener.")
        self._most = self._gauge("dropoff_connections_limit", "limits.connections, or what of it fits; 0: no limit.")

        # Uploads.
        self._uploads = self._gauge("dropoff_uploads", "Uploads in the catalog, parts too.", "state")
        self._since = self._gauge(
            "dropoff_uploads_oldest_seconds", "How long the oldest upload is in a state that ends by itself.", "state"
        )
        self._finishing = self._gauge(
            "dropoff_finishing", "Uploads with all their bytes that are being finished in the background."
        )
        self._finishing_since = self._gauge(
            "dropoff_finishing_oldest_seconds", "How long the oldest of these is being finished; 0 if there is none."
        )
        self._damaged = self._gauge(
            "dropoff_uploads_damaged", "Uploads that did not verify when this server read them."
        )

        # The machine.
        self._free = self._gauge("dropoff_volume_free_bytes", "Free space of the volume of a setting.", "volume")
        self._size = self._gauge("dropoff_volume_size_bytes", "Size of the volume of a setting.", "volume")
        self._inodes = self._gauge("dropoff_volume_free_inodes", "Free inodes, where they have a number.", "volume")
        self._floor = self._gauge("dropoff_free_space_floor_bytes", "store.free_space_floor.")
        self._certificate = self._gauge(
            "dropoff_tls_certificate_end_timestamp_seconds", "When a certificate ends: server.tls_cert's.", "setting"
        )
        self._disk = self._gauge("dropoff_disk_up", "Whether the volumes can be looked at.")
        self._clock_ahead = self._gauge("dropoff_clock_ahead", "Whether nothing ends by time.")
        self._audit_broken = self._gauge("dropoff_audit_broken", "Whether the audit differs from the signed one.")

        # The catalog.
        self._catalog = self._gauge("dropoff_catalog_up", "Whether the catalog answers.")
        self._ran = self._gauge("dropoff_run_end_timestamp_seconds", "When a task last ended.", "task")
        self._ran_well = self._gauge(
            "dropoff_run_good_timestamp_seconds", "When a task last ended without problems.", "task"
        )
        self._found = self._gauge("dropoff_run_problems", "Problems that a task's last run found.", "task")
        self._deliveries = self._counter(
            "dropoff_outbox_deliveries", "Attempts to deliver events, by their result.", "sink", "result"
        )
        self._pending = self._gauge("dropoff_outbox_pending", "Events that wait for delivery.", "sink")
        self._dead = self._gauge(
            "dropoff_outbox_dead", "Events given up; see `dropoff-tus outbox list --dead`.", "sink"
        )
        self._oldest = self._gauge(
            "dropoff_outbox_oldest_seconds", "Age of the oldest event that waits; 0 if none does.", "sink"
        )
        for sink in SinkName:
            for result in get_args(Outcome):
                self._deliveries.labels(sink.value, result)
        # An error that was never counted would not show as a rise when it comes the first time.
        for kind in _kinds(DropoffError):
            self._errors.labels(str(kind.status_hint), kind.code)
        # Of their labels: finding them costs more than counting.
        self._counters: dict[tuple[str, str, int], list[Counter]] = {}
        self._timers: dict[str, Histogram] = {}

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    # ---- while it runs ------------------------------------------------------------------------------------------

    def answered(self, route: str, method: str, status: int, seconds: float, code: str | None = None) -> None:
        """Count an answer; `route`, `method` and the refusal's `code` are each one of a fixed set."""
        counters = self._counters.get((route, method, status))
        if counters is None:
            counters = self._counters[route, method, status] = [self._requests.labels(route, method, str(status))]
            if route in _OF_TUS:
                counters.append(self._of_tus.labels(method))
        timer = self._timers.get(method)
        if timer is None:
            timer = self._timers[method] = self._seconds.labels(method)
        for counter in counters:
            counter.inc()
        timer.observe(seconds)
        if code is not None:
            self._errors.labels(str(status), code).inc()

    def count_received(self, count_bytes: int) -> None:
        """Count bytes of bodies. On the event loop only."""
        self._tusd.received_bytes += count_bytes

    def count_delivery(self, sink: SinkName, outcome: Outcome, events: int) -> None:
        """Count what came of events."""
        self._deliveries.labels(sink.value, outcome).inc(events)

    # ---- at a scrape --------------------------------------------------------------------------------------------

    def show_uploads(self, counts: Counts, waiting: int, waiting_since: datetime | None, now: datetime) -> None:
        """Show what the use cases know."""
        self._tusd.counts = counts
        self._damaged.set(len(counts.damaged))
        self._finishing.set(waiting)
        self._finishing_since.set(_age(waiting_since, now))

    def show_server(self, connections: int, most: int, *, clock_ahead: bool) -> None:
        """Show what the server knows of itself."""
        self._connections.set(connections)
        self._most.set(most)
        self._clock_ahead.set(clock_ahead)
        self._audit_broken.set(self.audit_problem is not None)

    def show_machine(self, seen: MachineView | None) -> None:
        """Show the volumes and the certificate; None if the disk does not answer."""
        self._disk.set(seen is not None)
        _clear(self._free, self._size, self._inodes, self._certificate)
        for volume in seen.volumes if seen is not None else ():
            for setting in volume.settings:
                self._free.labels(setting).set(volume.free_bytes)
                self._size.labels(setting).set(volume.total_bytes)
                if volume.free_inodes is not None:
                    self._inodes.labels(setting).set(volume.free_inodes)
        if seen is not None:
            self._floor.set(seen.floor_bytes)
            if seen.certificate_end is not None:
                self._certificate.labels("server.tls_cert").set(seen.certificate_end.timestamp())

    def show_catalog(self, seen: CatalogView | None, now: datetime) -> None:
        """Show what the catalog says; None if it does not answer, which is not the same as nothing."""
        self._catalog.set(seen is not None)
        _clear(self._pending, self._dead, self._oldest, self._uploads, self._since)
        _clear(self._ran, self._ran_well, self._found)
        if seen is None:
            return
        of_sink = {found.sink: found for found in seen.backlog}
        for sink in SinkName:
            found = of_sink.get(sink, Backlog(sink, 0, None, 0))
            self._pending.labels(sink.value).set(found.waiting)
            self._dead.labels(sink.value).set(found.dead)
            self._oldest.labels(sink.value).set(_age(found.oldest_at, now))
        of_state = {found.state: found for found in seen.tally}
        for state in UploadState:
            self._uploads.labels(state.value).set(of_state[state].count if state in of_state else 0)
        for state in (UploadState.WITHDRAWN, UploadState.CHECKING):
            self._since.labels(state.value).set(_age(of_state[state].oldest_at if state in of_state else None, now))
        for run in seen.runs:
            self._ran.labels(run.task.value).set(run.ended_at.timestamp())
            self._found.labels(run.task.value).set(run.problems)
            if run.good_at is not None:
                self._ran_well.labels(run.task.value).set(run.good_at.timestamp())


def _kinds(kind: type[DropoffError]) -> Iterator[type[DropoffError]]:
    """Yield a kind of error and all below it."""
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


# ---- of several workers ---------------------------------------------------------------------------------------------

_ADDED_UP = frozenset(
    {
        "dropoff_finishing",
        "dropoff_requests_running",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "tusd_connections_open",
    }
)
"""Of other gauges the greatest holds: they say the same everywhere, or how long the oldest of something waits."""


class _AddedUp(Collector):
    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def collect(self) -> Iterator[Metric]:
        """Yield each metric once."""
        found: dict[str, Metric] = {}
        values: dict[str, dict[tuple[str, frozenset[tuple[str, str]]], Sample]] = {}
        for text in self._texts:
            for metric in text_string_to_metric_families(text):
                found.setdefault(metric.name, metric)
                samples = values.setdefault(metric.name, {})
                join = max if metric.type == "gauge" and metric.name not in _ADDED_UP else operator.add
                for sample in metric.samples:
                    key = sample.name, frozenset(sample.labels.items())
                    there = samples.get(key)
                    samples[key] = sample if there is None else sample._replace(value=join(there.value, sample.value))
        for name, metric in found.items():
            metric.samples = list(values[name].values())
            yield metric


def added_up(texts: Sequence[str]) -> bytes:
    """Return the metrics of several workers as those of one server."""
    registry = CollectorRegistry()
    registry.register(_AddedUp(texts))
    text: bytes = generate_latest(registry)
    return text


def _clear(*gauges: Gauge) -> None:
    for gauge in gauges:
        gauge.clear()


def _age(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else max(0.0, (now - since).total_seconds())
