"""The anchors of a record: one for each day, never taken back."""

import asyncio
import json
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import HOUR, NOW, SECOND

from vaultbrix.agent.anchors import MOST_DAYS, Anchors, anchors_name, anchors_patch
from vaultbrix.api.conditions import Reason
from vaultbrix.audit.flow.report import Head
from vaultbrix.kube.client import Kube, NotFound, Object
from vaultbrix.kube.resources import CONFIG_MAPS, ResourceType
from vaultbrix.runtime.errors import Blocked

DAY = timedelta(days=1)
TODAY = NOW.date().isoformat()


def head(batch: int = 7, at: datetime = NOW) -> Head:
    return Head(batch=batch, head=f"{batch:064x}", sealed_at=at)


def applied(kept: dict[str, str], made: Head) -> dict[str, str]:
    changed = {**kept, **anchors_patch(kept, "main", made)}
    return {day: line for day, line in changed.items() if line is not None}


def test_a_head_is_kept_as_audit_anchor_prints_it() -> None:
    assert anchors_patch({}, "main", head()) == {TODAY: json.dumps({"server": "main", "batch": 7, "head": f"{7:064x}"})}


def test_today_moves_forward_and_a_day_that_has_passed_stays() -> None:
    kept = applied(applied({}, head(5, NOW - DAY)), head(7))
    assert anchors_patch(kept, "main", head(7)) == anchors_patch(kept, "main", head(6)) == {}
    assert anchors_patch(kept, "main", head(9, NOW - DAY)) == {}
    assert list(anchors_patch(kept, "main", head(8))) == [TODAY]
    assert list(anchors_patch(kept, "main", head(8, NOW + DAY))) == [(NOW + DAY).date().isoformat()]


def test_a_line_that_somebody_spoiled_gives_way() -> None:
    for line in ("", "{", "[]", "7", json.dumps({"batch": "many"}), json.dumps({"batch": None})):
        assert anchors_patch({TODAY: line}, "main", head())


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 100)), max_size=60))
def test_whatever_comes_no_anchor_is_taken_back(heads: list[tuple[int, int]]) -> None:
    kept: dict[str, str] = {}
    for days, batch in heads:
        before, kept = kept, applied(kept, head(batch, NOW + days * DAY))
        for day, line in before.items():
            assert json.loads(kept[day])["batch"] >= json.loads(line)["batch"]
            assert kept[day] == line or day == max(kept)


def test_the_oldest_go_when_there_are_too_many() -> None:
    kept = {(NOW - n * DAY).date().isoformat(): "{}" for n in range(1, MOST_DAYS + 1)}
    after = applied(kept, head())
    assert len(after) == MOST_DAYS
    assert min(after) == (NOW - (MOST_DAYS - 1) * DAY).date().isoformat()
    assert sum(len(day) + 120 for day in after) < 2**18


class Cluster(Kube):
    """One ConfigMap, or none, or no right to it."""

    def __init__(self) -> None:
        super().__init__("test")
        self.data: dict[str, str] | None = {}
        self.refused = False
        self.writes = 0

    async def get(self, kind: ResourceType, namespace: str, name: str) -> Object:
        assert (kind, namespace, name) == (CONFIG_MAPS, "system", anchors_name("main"))
        if self.refused:
            raise Blocked(Reason.FORBIDDEN, "cannot get configmaps")
        if self.data is None:
            raise NotFound(name)
        return {"metadata": {}, "data": self.data} if self.data else {"metadata": {}}

    async def merge(
        self, kind: ResourceType, namespace: str, name: str, body: Object, *, dry_run: bool = False
    ) -> Object:
        self.writes += 1
        assert self.data is not None
        self.data.update(body["data"])
        return body


def test_it_is_written_once_and_what_stands_in_the_way_is_told() -> None:
    cluster, latest = Cluster(), [head()]
    anchors = Anchors(cluster, "system", "main", lambda: latest[0])

    async def soon() -> None:
        running = asyncio.create_task(anchors.run())
        await asyncio.sleep(0.05)
        running.cancel()

    cluster.data = None
    asyncio.run(soon())
    assert "ConfigMap system/vaultbrix-anchors-main is not there" in anchors.trouble
    cluster.refused = True
    asyncio.run(soon())
    assert anchors.trouble == "cannot get configmaps"
    cluster.refused, cluster.data = False, {}
    asyncio.run(soon())
    asyncio.run(soon())
    assert (anchors.trouble, cluster.writes) == ("", 1)
    latest[0] = head(8, NOW + HOUR + SECOND)
    asyncio.run(soon())
    assert cluster.writes == 2
