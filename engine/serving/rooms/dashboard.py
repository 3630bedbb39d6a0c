"""The site that `dashboard` makes, file by file."""

from __future__ import annotations

from engine.interpret.dashboard.build import KIND, SERVED_INDEX
from engine.serving.problems import Problem
from engine.serving.settings import Settings
from storage.commits import open_snapshot
from storage.locations import Location


class DashboardRoom:
    """Files of a finished site; only those it was committed with exist."""

    def __init__(self, settings: Settings) -> None:
        if settings.dashboard is None:
            raise ValueError("a room of a dashboard needs one")
        self._site = open_snapshot(Location.of(settings.dashboard), KIND)
        self._site.check_sizes()

    def file(self, name: str) -> tuple[bytes, str]:
        """(content, its hash), read anew and checked; of the page itself when no name is given."""
        stored = self._site.all_objects.get(name or SERVED_INDEX)
        if stored is None:
            raise Problem(404, "no_page", f"the dashboard has no file {name!r}")
        return self._site.read(name or SERVED_INDEX), stored.xxh3
