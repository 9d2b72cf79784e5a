"""What Flux and others that go by kstatus see of real objects, and kubectl wait beside it."""

from tests.harness.kstatus import CURRENT, FAILED, IN_PROGRESS, kstatus
from tests.harness.kube_http import Object
from tests.harness.shell import wait_for
from tests.harness.world import World, approval, in_seconds

ADDRESS = "203.0.113.77"


def becomes(world: World, team: str, kind: str, name: str, health: str, phase: str | None = None) -> Object:
    """The object once it has that health, and that phase if it is one with phases."""

    def there() -> Object | None:
        found: Object = world.api.get(kind, name, team)
        reached = phase is None or found["status"].get("phase") == phase
        return found if reached and kstatus(found) == health else None

    return wait_for(f"{kind} {name} is {health}", there, tell=lambda: world.api.get(kind, name, team))


def is_ready(world: World, team: str, resource: str) -> bool:
    said = world.api.kubectl("-n", team, "wait", "--for=condition=Ready", resource, "--timeout=1s", check=False)
    return "condition met" in said


def test_a_rule_that_ends_or_is_revoked_is_current_and_not_ready(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    becomes(world, team, "tenant", tenant, CURRENT)
    short = world.rule(team, tenant, f"{ADDRESS}/32", expiresAt=in_seconds(8))
    becomes(world, team, "accessrule", short, CURRENT, "Open")
    assert is_ready(world, team, f"accessrule/{short}")
    revoked = world.rule(team, tenant, f"{ADDRESS}/32")
    becomes(world, team, "accessrule", revoked, CURRENT, "Open")
    world.api.patch("accessrule", revoked, team, {"spec": {"revoked": True}})
    for name, phase in ((short, "Expired"), (revoked, "Revoked")):
        ended = becomes(world, team, "accessrule", name, CURRENT, phase)
        assert "Ready" not in {condition["type"] for condition in ended["status"]["conditions"]}
        assert not is_ready(world, team, f"accessrule/{name}")
        by_phase = f"--for=jsonpath={{.status.phase}}={phase}"
        assert "condition met" in world.api.kubectl("-n", team, "wait", f"ar/{name}", by_phase, "--timeout=1s")
    later = world.rule(team, tenant, f"{ADDRESS}/32", startsAt=in_seconds(3000))
    becomes(world, team, "accessrule", later, IN_PROGRESS, "Pending")


def test_what_only_a_change_ends_has_failed_and_recovers_with_it(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    wide = world.rule(team, tenant, "198.0.0.0/8")
    becomes(world, team, "accessrule", wide, FAILED, "Rejected")
    world.api.patch("accessrule", wide, team, {"spec": {"cidrs": [f"{ADDRESS}/32"]}})
    becomes(world, team, "accessrule", wide, CURRENT, "Open")
    world.api.patch("tenant", tenant, team, {"spec": {"suspended": True}})
    becomes(world, team, "tenant", tenant, FAILED)
    becomes(world, team, "accessrule", wide, FAILED, "Pending")
    world.api.patch("tenant", tenant, team, {"spec": {"suspended": False}})
    becomes(world, team, "tenant", tenant, CURRENT)
    world.api.apply(approval(team, "typo", tenant, "DROP TABEL a"))
    becomes(world, team, "ddlapproval", "typo", FAILED, "Invalid")
    world.api.apply(approval(team, "waits", tenant, "DROP TABLE a"))
    becomes(world, team, "ddlapproval", "waits", FAILED, "Pending")
    key = world.api_key(team, tenant)
    becomes(world, team, "apikey", key, CURRENT, "Active")
    world.api.patch("apikey", key, team, {"spec": {"revoked": True}})
    becomes(world, team, "apikey", key, CURRENT, "Revoked")
