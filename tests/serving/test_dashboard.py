"""The site about the features, behind the door: the same files, numbers only with a key, nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from engine.interpret.dashboard.build import build_site
from engine.interpret.dashboard.inputs import SiteInputs
from engine.serving.access import new_key
from engine.serving.api import create_api
from engine.serving.doors import Doors
from engine.serving.placement import Inside
from engine.serving.rooms.dashboard import DashboardRoom
from engine.serving.settings import Settings
from storage.locations import Location
from tests.interpret.enrichment.example import write_features


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("dashboard")
    features = write_features(place / "features")
    build_site(SiteInputs.open(str(features)), Location.of(place / "site"))
    return place / "site"


def doors_of(site: Path, keys: Path | None = None) -> Doors:
    settings = Settings(index="not asked", dashboard=str(site), api_keys=keys and str(keys))
    return Doors(settings, cells=None, selections=None, dashboard=Inside(DashboardRoom(settings)))


def test_the_pages_are_those_on_disk(site: Path) -> None:
    with TestClient(create_api(doors_of(site))) as client:
        assert client.get("/dashboard").url.path == "/dashboard/"
        page = client.get("/dashboard/")
        assert page.content == (site / "served.html").read_bytes()
        assert page.headers["content-type"].startswith("text/html")
        assert "data-served" in page.text
        for name in ("site.js", "site.css", "data/table.js", "data/features/0.js"):
            found = client.get(f"/dashboard/{name}")
            assert found.content == (site / name).read_bytes()
            assert found.headers["x-content-type-options"] == "nosniff"
            again = client.get(f"/dashboard/{name}", headers={"If-None-Match": found.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        for name in ("plan.json", "data/../plan.json", "%2e%2e/features/plan.json", "data/none.js"):
            assert client.get(f"/dashboard/{name}").status_code == 404


def test_numbers_want_a_key_where_there_are_keys(site: Path, tmp_path: Path) -> None:
    text, key = new_key("reader", ["read"])
    keys = tmp_path / "keys"
    keys.write_text(key.line + "\n")
    with TestClient(create_api(doors_of(site, keys))) as client:
        assert client.get("/dashboard/").status_code == 200
        assert client.get("/dashboard/data/table.js").status_code == 401
        allowed = client.get("/dashboard/data/table.js", headers={"Authorization": f"Bearer {text}"})
        assert allowed.status_code == 200


def test_without_one_that_is_said(site: Path) -> None:
    with TestClient(create_api(replace(doors_of(site), dashboard=None))) as client:
        refused = client.get("/dashboard/")
        assert refused.status_code == 501
        assert "--dashboard" in refused.text
