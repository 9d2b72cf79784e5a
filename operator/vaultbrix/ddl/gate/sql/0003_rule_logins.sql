-- Logins of AccessRules with `login: PerRule`: which role is whose, so that nobody else's is ever changed or dropped.
SET ROLE vaultbrix_gate;

CREATE TABLE vaultbrix.rule_login(
  login name PRIMARY KEY, role_name name NOT NULL, rule_uid text NOT NULL,
  claimed_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX ON vaultbrix.rule_login(rule_uid);
CREATE INDEX ON vaultbrix.rule_login(role_name);

RESET ROLE;
