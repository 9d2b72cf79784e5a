"""A renewed certificate of PostgreSQL is served without a restart."""

import ssl

from tests.harness.direct_access import held_session
from tests.harness.network import SERVER
from tests.harness.shell import run, wait_for
from tests.harness.world import PORT, World


def served(world: World) -> str:
    """The certificate that a new connection gets."""
    said = run(
        *world.network.inside(
            "server", ["openssl", "s_client", "-starttls", "postgres", "-connect", f"{SERVER}:{PORT}"]
        ),
        check=False,
        input_text="",
    ).stdout
    return said[said.index("-----BEGIN") : said.index("-----END")]


def on_disk(world: World) -> str:
    text = world.postgres.certificate.read_text()
    assert ssl.PEM_cert_to_DER_cert(text)
    return text[: text.index("-----END")]


def test_a_renewed_certificate_is_served_to_new_connections_and_cuts_nobody_off(world: World) -> None:
    team = world.team()
    tenant = world.tenant(team)
    rule = world.rule(team, tenant, "203.0.113.160/32")
    world.api.await_condition("accessrule", rule, team)
    before = served(world)
    assert before == on_disk(world)
    session = held_session(world, "203.0.113.160", team, tenant, "certificate")
    world.postgres.issue_certificate()
    assert on_disk(world) != before
    wait_for("the new one is served", lambda: served(world) == on_disk(world), patience=60, tell=world.agent.text)
    assert session.running
    assert world.psql("203.0.113.160", team, tenant, "SELECT 1").works(), "it is of the same CA"
    session.stop()


def test_one_that_does_not_fit_its_key_leaves_the_old_one_in_force_until_it_does(world: World) -> None:
    before = served(world)
    key = world.postgres.certificate.with_suffix(".key")
    fitting = key.read_text()
    world.postgres.issue_certificate()
    right, said = key.read_text(), len(world.agent.text())
    key.write_text(fitting)
    wait_for("it was tried", lambda: world.agent.text()[said:].count("another certificate") > 1, patience=60)
    assert served(world) == before
    key.write_text(right)
    wait_for("the new one is served", lambda: served(world) == on_disk(world), patience=120, tell=world.agent.text)
