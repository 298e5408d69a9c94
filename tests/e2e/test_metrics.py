"""`/metrics` of a real server: what it counts, what it finds in catalog, store and machine, and what it never says."""

import asyncio
import itertools
import json
import os
import re
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from dropoff_tus.model import Task
from dropoff_tus.states import UploadState
from storage.catalog import open_catalog
from tests.support.certificate import make_certificate
from tests.support.metrics import Scrape, filled
from tests.support.programs import require_program
from tests.support.reference import error_classes
from tests.support.server_process import REPOSITORY, ServerProcess, free_port_pair, upload_id_of
from tests.support.tus_raw import TusSite

_BIG = 3 << 20
"""Long enough to come straight from the socket."""
_MONITORING = REPOSITORY / "deploy" / "monitoring"
_SELECTOR = re.compile(r"\b(?:dropoff|tusd|process)_\w+(?:\{[^}]*\})?|\bup\{[^}]*\}")
_LABELS = {
    "method": {"GET", "HEAD", "OPTIONS", "POST", "PATCH", "DELETE", "other"},
    "route": {"dropoff", "upload", "receipt", "download", "page", "asset", "info", "receipts", "none"},
    "code": set(error_classes()),
    "state": {state.value for state in UploadState},
    "task": {"check", "quick-check", "backup"},
    "sink": {"webhook", "mail"},
    "result": {"delivered", "failed", "dead"},
    "volume": {"store.dir", "store.keys_dir", "keys.ingest_dir", "catalog.url"},
    "setting": {"server.tls_cert"},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run one server for this module."""
    with ServerProcess(tmp_path_factory.mktemp("metrics")) as running:
        yield running


def _until(server: ServerProcess, what: Callable[[Scrape], bool]) -> Scrape:
    deadline = time.monotonic() + 30
    while not what(scrape := Scrape.of(server)):
        assert time.monotonic() < deadline, scrape.text
        time.sleep(0.02)
    return scrape


def test_what_tusd_counts_has_its_names_and_bytes_count_while_they_come(server: ServerProcess) -> None:
    """Bytes of a PATCH that still runs, and of one that is cut: a long upload is no spike at its end."""
    site, before = server.drop.site, Scrape.of(server)
    first, second = site.upload(bytes(_BIG)), site.create(5)
    assert site.delete(second).status == 204
    assert site.patch(first, 0, b"x").error_code in {"ERR_MISMATCHED_OFFSET", "ERR_UPLOAD_SIZE_EXCEEDED"}
    assert TusSite(site.upload_url, "wrong").post({"Upload-Length": "1"}).error_code == "ERR_ACCESS_DENIED"
    third = site.create(2 * _BIG)
    with site.connect() as connection:
        head = site.message("PATCH", third, {**site.patch_headers(0), "Content-Length": str(2 * _BIG)})
        connection.send(head + bytes(_BIG))
        wanted = before.value("tusd_bytes_received") + 2 * _BIG
        after = _until(server, lambda scrape: scrape.value("tusd_bytes_received") >= wanted)
        assert after.value("dropoff_requests_running") == 1
    grown = {
        name: after.value(name) - before.value(name)
        for name in ("tusd_bytes_received", "tusd_uploads_created", "tusd_uploads_finished", "tusd_uploads_terminated")
    }
    assert grown == {
        "tusd_bytes_received": 2 * _BIG,
        "tusd_uploads_created": 3,
        "tusd_uploads_finished": 1,
        "tusd_uploads_terminated": 1,
    }
    assert after.value("tusd_errors_total", status="403", code="ERR_ACCESS_DENIED") == 1
    assert after.value("tusd_requests_total", method="DELETE") == 1
    assert after.value("dropoff_uploads", state="complete") == 1
    assert after.value("dropoff_uploads", state="terminated") == 1
    assert after.value("dropoff_uploads", state="open") == 1
    cut = _until(server, lambda scrape: scrape.value("dropoff_requests_running") == 0)
    assert cut.value("tusd_errors_total", code="ERR_CONNECTION_RESET") == 1
    assert cut.value("tusd_bytes_received") == wanted


@pytest.mark.timeout(180)
def test_damage_shows_until_the_upload_is_deleted(server: ServerProcess) -> None:
    """In what this server met, and in the findings of the last check; a good check before stays known."""
    server.cli("store", "check")
    good_at = Scrape.of(server).value("dropoff_run_good_timestamp_seconds", task="check")
    assert abs(good_at - datetime.now(UTC).timestamp()) < 60
    url = server.drop.site.upload(b"content")
    upload_id = upload_id_of(url)
    log = next((server.data / "store" / "uploads").rglob(f"*{upload_id}*/log"))
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    log.write_bytes(content)
    # A running server knows the log of old; a new one reads it.
    server.restart()
    assert server.drop.site.head(url).status == 423
    server.cli("store", "check", upload_id, check=False)
    assert server.cli("store", "check", check=False).returncode == 1
    scrape = Scrape.of(server)
    assert scrape.value("dropoff_uploads_damaged") == 1
    assert scrape.value("dropoff_run_problems", task="check") == 1
    assert scrape.value("dropoff_run_good_timestamp_seconds", task="check") == good_at
    assert scrape.value("dropoff_run_end_timestamp_seconds", task="check") > good_at
    server.cli("upload", "delete", upload_id, "--damaged", "--yes")
    server.cli("store", "check", "--quick")
    scrape = Scrape.of(server)
    assert scrape.value("dropoff_uploads_damaged") == 0
    assert scrape.value("dropoff_run_problems", task="quick-check") == 0
    assert not scrape.has("dropoff_run_end_timestamp_seconds", task="backup")


def test_machine_is_seen(server: ServerProcess) -> None:
    """Free space as the system says it, the floor, the version and the descriptors."""
    scrape = Scrape.of(server)
    volume = os.statvfs(server.data / "store")
    assert scrape.value("dropoff_volume_size_bytes", volume="store.dir") == volume.f_blocks * volume.f_frsize
    free = scrape.value("dropoff_volume_free_bytes", volume="store.dir")
    assert free == pytest.approx(volume.f_bavail * volume.f_frsize, rel=0.2)
    assert scrape.value("dropoff_free_space_floor_bytes") == 1 << 30
    assert scrape.value("dropoff_build_info", version=server.cli("--version").stdout.decode().split()[1]) == 1
    assert 0 < scrape.value("process_open_fds") < scrape.value("process_max_fds")


def test_missing_catalog_is_said_and_the_rest_is_told(server: ServerProcess) -> None:
    """Monitoring must not go blind in the moment it is for."""
    catalog, away = server.data / "catalog.sqlite3", server.data / "away"
    shutil.move(catalog, away)
    try:
        scrape = _until(server, lambda scrape: scrape.value("dropoff_catalog_up") == 0)
    finally:
        shutil.move(away, catalog)
    assert not scrape.has("dropoff_uploads")
    assert not scrape.has("dropoff_run_end_timestamp_seconds")
    assert scrape.value("dropoff_disk_up") == 1
    assert scrape.has("tusd_bytes_received")
    _until(server, lambda scrape: scrape.value("dropoff_catalog_up") == 1)


def test_metrics_have_no_noise_and_few_values_in_labels(server: ServerProcess) -> None:
    """However hostile a request is: each value of a label is one of a few, and none is anybody's."""
    site = server.drop.site
    for method, target in (
        ("BREW", f"{site.upload_url}{'f' * 32}"),
        ("GET", f"{server.url}/d/{'e' * 32}/x"),
        ("GET", f"{server.url}/n"),
    ):
        site.request(method, target, {"Dropoff-Code": site.code, "X-HTTP-Method-Override": "FROB"})
    scrape = Scrape.of(server)
    names = {sample.name for family in scrape.families for sample in family.samples}
    assert {name for name in names if name.endswith("_created")} == {"tusd_uploads_created"}
    assert not re.search(r"[0-9a-f]{32}", scrape.text)
    for family in scrape.families:
        for sample in family.samples:
            for label, value in sample.labels.items():
                if label == "status":
                    assert re.fullmatch(r"[2-5]\d\d", value)
                elif label not in {"le", "version", "python"}:
                    assert value in _LABELS[label], (sample.name, label, value)


def test_server_shows_the_metrics_of_the_reference_and_no_other(server: ServerProcess) -> None:
    """Which is made from the collectors, each with a sample."""
    assert {family.name for family in Scrape.of(server).families} == {family.name for family in filled().families}


# ---- alerts and dashboard ---------------------------------------------------------------------------------------


def test_alerts_are_right_and_fire_when_they_are_to() -> None:
    """As Prometheus' own checker says; each of them has a case in which it fires, and a chapter for operators."""
    promtool = require_program("promtool")
    for words in (("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")):
        done = subprocess.run([promtool, *words], cwd=_MONITORING, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    rules, cases = ((_MONITORING / name).read_text("utf-8") for name in ("alerts.yml", "alerts.test.yml"))
    named = re.findall(r"- alert: (\w+)", rules)
    assert set(re.findall(r"alertname: (\w+)\n +eval_time: \w+\n +exp_alerts:\n", cases)) == set(named)
    manual = (REPOSITORY / "docs" / "operate" / "monitoring.md").read_text("utf-8")
    assert re.findall(r"^\| (Dropoff\w+) \|", manual, re.MULTILINE) == named


class _Prometheus:
    """A real one, which watches one server and has our alerts."""

    def __init__(self, folder: Path, server: ServerProcess) -> None:
        self.port = free_port_pair()
        rules, targets = _MONITORING / "alerts.yml", [f"127.0.0.1:{server.port + 1}"]
        settings = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": "dropoff-tus", "static_configs": [{"targets": targets}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(settings), "utf-8")
        options = ("--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error")
        command = [str(require_program("prometheus")), *options, f"--web.listen-address=127.0.0.1:{self.port}"]
        self.process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)

    def ask(self, path: str, **values: str) -> Any:  # noqa: ANN401 - what JSON gives
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(values)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
                raise  # it is starting
            raise AssertionError(f"{values}: {error.read().decode()}") from None

    def until(self, what: Callable[[], object]) -> None:
        deadline = time.monotonic() + 90
        while True:
            try:
                left = what()
            except urllib.error.URLError as error:
                left = error
            if not left:
                return
            assert time.monotonic() < deadline, left
            time.sleep(0.2)


@pytest.mark.timeout(180)
def test_dashboard_has_each_panel_in_a_place_of_its_own() -> None:
    """Grafana moves one that lies on another, and shows one of two that have the same number or letter."""
    panels = json.loads((_MONITORING / "dashboard.json").read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        columns, rows = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells = set(itertools.product(columns, rows))
        assert columns[-1] < 24
        assert not cells & taken, panel["title"]
        taken |= cells
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_alerts_and_dashboard_find_their_metrics_in_a_real_run(server: ServerProcess, tmp_path: Path) -> None:
    """Each selector of the alerts, and each expression of the dashboard, has an answer in a real Prometheus."""
    certificate, key = make_certificate(tmp_path)
    server.restart(environment={"SERVER__TLS_CERT": str(certificate), "SERVER__TLS_KEY": str(key)})
    tls = ssl.create_default_context(cafile=certificate)
    site = TusSite(server.drop.upload_url.replace("http:", "https:"), server.drop.code, tls)
    site.head(site.upload(b"content"))
    server.cli("store", "check", "--quick", check=False)

    async def note() -> None:
        async with open_catalog(f"sqlite:///{server.data}/catalog.sqlite3") as catalog:
            for task in (Task.BACKUP, Task.CHECK):
                await catalog.note_run(task, datetime.now(UTC), 0)

    asyncio.run(note())
    dashboard = (_MONITORING / "dashboard.json").read_text("utf-8")
    shown = [target["expr"] for panel in json.loads(dashboard)["panels"] for target in panel["targets"]]
    exprs = {expr.replace("$job", "dropoff-tus").replace("$__rate_interval", "1m") for expr in shown}
    alerts = re.sub(r"\{\{.*?\}\}", "", (_MONITORING / "alerts.yml").read_text("utf-8"))
    exprs |= set(_SELECTOR.findall(re.sub(r"summary: .*", "", alerts)))
    prometheus = _Prometheus(tmp_path, server)
    try:

        def unanswered() -> list[str]:
            # A rate needs something to happen.
            site.post({"Upload-Length": "x"})
            return [expr for expr in exprs if not prometheus.ask("query", query=expr)["result"]]

        prometheus.until(unanswered)

        def unwell() -> list[Any]:
            (group,) = prometheus.ask("rules")["groups"]
            return [rule for rule in group["rules"] if rule["health"] != "ok"]

        prometheus.until(unwell)
        for target in (target for panel in json.loads(dashboard)["panels"] for target in panel["targets"]):
            expr = target["expr"].replace("$job", "dropoff-tus").replace("$__rate_interval", "1m")
            for found in prometheus.ask("query", query=expr)["result"]:
                named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                assert named <= found["metric"].keys(), target
        firing = {found["labels"]["alertname"] for found in prometheus.ask("alerts")["alerts"]}
        assert not firing - {"DropoffCertificateEnds", "DropoffInodesShort", "DropoffSpaceShort", "DropoffSpaceFills"}
    finally:
        prometheus.process.terminate()
        prometheus.process.wait(20)
