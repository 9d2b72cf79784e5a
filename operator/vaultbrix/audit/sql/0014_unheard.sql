-- Sessions that the agent saw in PostgreSQL and of which no line came. Each is told as a gap, in the same transaction; kept
-- here so that none is told again, whoever is started anew.
CREATE TABLE audit.unheard(
  server text NOT NULL, session_id text NOT NULL, told_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (server, session_id));
GRANT SELECT, INSERT ON audit.unheard TO audit_append;
GRANT SELECT ON audit.unheard TO audit_read;
