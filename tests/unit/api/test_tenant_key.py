from tests.harness.builders import approval, rule


def test_rules_and_approvals_name_the_tenant_of_their_own_namespace() -> None:
    assert rule(metadata={"namespace": "team"}, tenantRef={"name": "beta"}).tenant_key == ("team", "beta")
    assert approval(metadata={"namespace": "else"}, tenantRef={"name": "acme"}).tenant_key == ("else", "acme")
