"""What `/metrics` says."""

import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dropoff_tus.model import Run, Tally, Task
from dropoff_tus.states import UploadState
from server.http.metrics import CatalogView, MachineView, Metrics
from server.places import Volume
from server.usecases.ports import Counts
from tests.support.server_process import ServerProcess


@dataclass(frozen=True, slots=True)
class Scrape:
    """One answer of `/metrics`."""

    text: str

    @classmethod
    def of(cls, server: ServerProcess) -> "Scrape":
        """Ask a server, whose monitoring listens on the next port."""
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port + 1}/metrics", timeout=20) as answer:
            return cls(answer.read().decode())

    @property
    def families(self) -> list[Metric]:
        """Return what is in it."""
        return list(text_string_to_metric_families(self.text))

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels; 0 if there is none."""
        samples = (sample for family in self.families for sample in family.samples)
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())

    def has(self, name: str, **labels: str) -> bool:
        """Tell whether there is such a sample."""
        samples = (sample for family in self.families for sample in family.samples)
        return any(one.name == name and labels.items() <= one.labels.items() for one in samples)


def filled() -> Scrape:
    """Return a scrape in which every metric has a sample."""
    metrics, now = Metrics(), datetime(2030, 1, 1, tzinfo=UTC)
    metrics.answered("upload", "PATCH", 409, 0.1, "ERR_MISMATCHED_OFFSET")
    metrics.show_uploads(Counts(), 0, None, now)
    metrics.show_server(0, 0, clock_ahead=False)
    metrics.show_machine(MachineView([Volume(("store.dir",), 2, 1, 1)], 1, now))
    metrics.show_catalog(CatalogView([], [Tally(UploadState.OPEN, 1)], [Run(Task.CHECK, now, now, 0)]), now)
    return Scrape(generate_latest(metrics.registry).decode())
