-- The audit store: one row per line of PostgreSQL's log, in partitions by day (UTC), appended by one role, read by another.
CREATE SCHEMA audit;
REVOKE ALL ON SCHEMA audit FROM PUBLIC;

DO $$
DECLARE r text;
BEGIN
  FOREACH r IN ARRAY ARRAY['audit_append', 'audit_read'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN EXECUTE format('CREATE ROLE %I NOLOGIN', r); END IF;
  END LOOP;
END $$;

CREATE TABLE audit.record(
  server        text NOT NULL,
  at            timestamptz NOT NULL,
  session_id    text NOT NULL,
  line_num      bigint NOT NULL,
  kind          text NOT NULL CHECK (kind IN ('statement','duration','error','connection','disconnection','forged','other')),
  pid           int,
  role          text,
  tenant        text NOT NULL DEFAULT '',
  person        text NOT NULL DEFAULT '',
  ground        text NOT NULL DEFAULT '',   -- the AccessRule or DDLApproval that let the person in
  database      text,
  address       inet,
  application   text,
  class         text,
  command       text,
  object_type   text,
  object_name   text,
  statement_id  bigint,
  substatement_id bigint,
  statement     text,
  duration_ms   double precision,
  severity      text,
  sqlstate      text,
  message       text,
  file          text NOT NULL,
  position      bigint NOT NULL             -- byte offset of the line in the file
) PARTITION BY RANGE (at);
CREATE INDEX ON audit.record(server, session_id, line_num);
CREATE INDEX ON audit.record(tenant, at);
CREATE INDEX ON audit.record USING brin(at);

-- Where the next batch begins. The batch number fences off a second shipper; the fingerprint is the sha256 of the
-- (up to) 256 bytes before the position, since inode and size alone miss an overwritten file.
CREATE TABLE audit.checkpoint(
  server text PRIMARY KEY, file text NOT NULL, inode bigint NOT NULL, position bigint NOT NULL,
  fingerprint bytea NOT NULL, batch bigint NOT NULL, stored_at timestamptz NOT NULL DEFAULT clock_timestamp());

-- What is known to be missing. Never silence.
CREATE TABLE audit.gap(
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, server text NOT NULL, file text NOT NULL, position bigint NOT NULL,
  reason text NOT NULL, found_at timestamptz NOT NULL DEFAULT clock_timestamp());

-- Lines that are no JSON of PostgreSQL's, as they were.
CREATE TABLE audit.quarantine(
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, server text NOT NULL, file text NOT NULL, position bigint NOT NULL,
  line bytea NOT NULL, reason text NOT NULL, found_at timestamptz NOT NULL DEFAULT clock_timestamp());

CREATE FUNCTION audit.ensure_day(p_day date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE name text := 'record_' || to_char(p_day, 'YYYYMMDD');
BEGIN
  IF to_regclass('audit.' || name) IS NOT NULL THEN RETURN; END IF;
  PERFORM pg_advisory_xact_lock(hashtextextended('audit ' || name, 0));
  IF to_regclass('audit.' || name) IS NOT NULL THEN RETURN; END IF;
  EXECUTE format('CREATE TABLE audit.%I PARTITION OF audit.record FOR VALUES FROM (%L) TO (%L)', name,
                 p_day || ' 00:00:00+00', p_day + 1 || ' 00:00:00+00');
END $$;
REVOKE ALL ON FUNCTION audit.ensure_day(date) FROM PUBLIC;

-- One row per statement that a session sent, with how it ended. pgAudit writes several lines for one statement
-- (a line per object, and further substatements for what runs inside functions and triggers): the first line of
-- substatement 1 stands for it. Its duration or error comes later in the session, so the next such line tells.
CREATE VIEW audit.sent AS
SELECT s.* FROM audit.record s
 WHERE s.kind = 'statement' AND s.substatement_id = 1
   AND NOT EXISTS (
     SELECT FROM audit.record p
      WHERE p.server = s.server AND p.session_id = s.session_id AND p.kind = 'statement' AND p.substatement_id = 1
        AND p.statement_id = s.statement_id AND p.line_num < s.line_num);

-- An error with no such line since the statement before it ended is a statement that never started: refused by the
-- gate, or not valid.
CREATE VIEW audit.statement AS
SELECT s.server, s.at, s.session_id, s.line_num, s.pid, s.role, s.tenant, s.person, s.ground, s.database, s.address,
       s.application, s.class, s.command, s.object_type, s.object_name, s.statement, o.duration_ms,
       CASE o.kind WHEN 'duration' THEN 'ok' WHEN 'error' THEN 'error' ELSE 'unknown' END AS outcome,
       CASE WHEN o.kind = 'error' THEN o.sqlstate END AS sqlstate,
       CASE WHEN o.kind = 'error' THEN o.message END AS message
  FROM audit.sent s
  LEFT JOIN LATERAL (
    SELECT r.kind, r.duration_ms, r.sqlstate, r.message FROM audit.record r
     WHERE r.server = s.server AND r.session_id = s.session_id AND r.line_num > s.line_num
       AND r.kind IN ('duration', 'error')
     ORDER BY r.line_num LIMIT 1) o ON true
UNION ALL
SELECT e.server, e.at, e.session_id, e.line_num, e.pid, e.role, e.tenant, e.person, e.ground, e.database, e.address,
       e.application, NULL, NULL, NULL, NULL, e.statement, NULL,
       CASE WHEN e.sqlstate = 'VBX01' THEN 'refused' ELSE 'error' END, e.sqlstate, e.message
  FROM audit.record e
 WHERE e.kind = 'error' AND e.statement IS NOT NULL
   AND NOT EXISTS (
     SELECT FROM audit.record s
      WHERE s.server = e.server AND s.session_id = e.session_id AND s.kind = 'statement' AND s.substatement_id = 1
        AND s.line_num < e.line_num
        AND s.line_num > coalesce((
          SELECT max(b.line_num) FROM audit.record b
           WHERE b.server = e.server AND b.session_id = e.session_id AND b.line_num < e.line_num
             AND b.kind IN ('duration', 'error')), 0));

GRANT USAGE ON SCHEMA audit TO audit_append, audit_read;
GRANT INSERT ON audit.record, audit.gap, audit.quarantine TO audit_append;
GRANT SELECT, INSERT, UPDATE ON audit.checkpoint TO audit_append;
GRANT EXECUTE ON FUNCTION audit.ensure_day(date) TO audit_append;
GRANT SELECT ON ALL TABLES IN SCHEMA audit TO audit_read;
