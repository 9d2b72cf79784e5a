"""Names of logins beside a tenant's role: its own, and no other tenant's."""

import re

from hypothesis import given
from hypothesis import strategies as st

from vaultbrix.api.login_names import login_for, logins_of, second_login
from vaultbrix.api.tenant import SLUG_PATTERN

SLUGS = st.from_regex(SLUG_PATTERN, fullmatch=True)
RESERVED = re.compile(r"[-_]r[-_][0-9a-f]{10}$")


@given(SLUGS, st.uuids())
def test_no_slug_of_a_tenant_names_the_login_of_another(slug: str, uid: object) -> None:
    for login in (second_login(f"tenant_{slug}"), login_for(f"tenant_{slug}", str(uid))):
        assert login.startswith("tenant_")
        assert len(login) <= 63
        assert RESERVED.search(login), "a slug that ends so is refused"


@given(SLUGS.filter(lambda slug: not RESERVED.search(slug)))
def test_a_tenants_role_has_a_second_login_and_a_rules_login_has_none(slug: str) -> None:
    role = f"tenant_{slug}"
    assert logins_of(role) == (role, second_login(role))
    assert logins_of(second_login(role)) == (second_login(role),)


def test_long_slugs_that_begin_alike_have_second_logins_of_their_own() -> None:
    long = "tenant_" + "a" * 54
    assert second_login(long + "b") != second_login(long + "c")
