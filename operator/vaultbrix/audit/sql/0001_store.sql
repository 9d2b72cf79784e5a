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
  kind          text NOT NULL CHECK (kind IN ('statement','duration','error','connection','disconnection','gate','forged','other')),
  pid           int,
  role          text,
  tenant        text NOT NULL DEFAULT '',
  person        text NOT NULL DEFAULT '',
  ground        text NOT NULL DEFAULT '',   -- the AccessRule or DDLApproval that let the person in
  database      text,
  address       inet,
  application   text,
  tag           text NOT NULL,              -- what the session was at: a command tag, or PARSE, BIND, idle
  vxid          text,                       -- virtual transaction
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
CREATE INDEX ON audit.record(server, session_id, line_num) WHERE kind IN ('duration', 'error');
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

-- From log lines to statements. A session's lines stand in order (line_num). A client's message ends with a duration
-- or an error. pgAudit writes lines for each statement in it, numbered (statement_id): one per object, and more for what
-- runs inside functions and triggers; most utility commands get theirs when they end, after those of what they ran.
-- The text of a line is that of the whole message. What deferred triggers run, and functions while a statement is
-- planned, has numbers of its own as if it had been sent. It is left out only where the message's text is certain: a
-- tenant can make such lines come first, and they must not hide what was sent. Rather a row too many than one too few.

-- The line that stands for a statement, given the first one: a utility's own line, else the first.
CREATE FUNCTION audit.own_line(p_server text, p_session text, p_line bigint, p_id bigint, p_tag text)
RETURNS TABLE(class text, command text, object_type text, object_name text, statement text)
LANGUAGE sql STABLE AS $$
  SELECT r.class, r.command, r.object_type, r.object_name, r.statement
    FROM audit.record r
   WHERE r.server = p_server AND r.session_id = p_session AND r.kind = 'statement' AND r.line_num >= p_line
     AND r.line_num < coalesce((
       SELECT n.line_num FROM audit.record n
        WHERE n.server = p_server AND n.session_id = p_session AND n.line_num > p_line AND n.kind = 'statement'
          AND n.statement_id <> p_id ORDER BY n.line_num LIMIT 1), 9223372036854775807)
   ORDER BY CASE WHEN r.command <> p_tag OR p_tag IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'MERGE', 'DO') THEN r.line_num
                 -- A DROP TABLE has lines for the table's triggers and constraints too.
                 WHEN right(p_tag, length(r.object_type)) = r.object_type THEN -2 * r.line_num - 4611686018427387904
                 ELSE -r.line_num END
   LIMIT 1
$$;

-- Whether an error is that of a statement which has a line. Otherwise it is that of one which never started.
CREATE FUNCTION audit.belongs(e audit.record, s_tag text, s_vxid text, s_statement text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
  SELECT (s_tag = e.tag OR (s_tag = 'BIND' AND e.tag <> 'PARSE'))
     AND (s_statement = e.statement OR s_vxid IS NOT DISTINCT FROM e.vxid)
$$;

-- Statements with a line of pgAudit's. The duration is that of the message and stands on its last statement.
-- In one message, an error after a statement of the same kind is taken to be that statement's, unless it is known to
-- come from parsing the next one; either way the transaction was rolled back.
CREATE VIEW audit.started AS
SELECT s.server, s.at, s.session_id, s.line_num, s.pid, s.role, s.tenant, s.person, s.ground, s.database, s.address,
       s.application, own.class, own.command, own.object_type, own.object_name,
       CASE WHEN o.failed THEN coalesce(ending.statement, own.statement) ELSE own.statement END AS statement,
       CASE WHEN NOT o.followed THEN ending.duration_ms END AS duration_ms,
       CASE WHEN o.failed THEN ending.sqlstate ELSE late.sqlstate END AS sqlstate,
       CASE WHEN o.failed THEN ending.message ELSE late.message END AS message,
       CASE WHEN coalesce(CASE WHEN o.failed THEN ending.sqlstate END, late.sqlstate) = 'VBX01' THEN 'refused'
            WHEN o.failed OR late.sqlstate IS NOT NULL THEN 'error'
            WHEN o.followed OR ending.kind IS NOT NULL THEN 'ok'
            ELSE 'unknown' END AS outcome
  FROM audit.record s
  LEFT JOIN LATERAL (
    SELECT r.statement_id FROM audit.record r
     WHERE r.server = s.server AND r.session_id = s.session_id AND r.line_num < s.line_num AND r.kind = 'statement'
     ORDER BY r.line_num DESC LIMIT 1) before ON true
  LEFT JOIN LATERAL (
    SELECT r.line_num FROM audit.record r
     WHERE r.server = s.server AND r.session_id = s.session_id AND r.line_num < s.line_num
       AND r.kind IN ('duration', 'error')
     ORDER BY r.line_num DESC LIMIT 1) previous ON true
  LEFT JOIN LATERAL (
    SELECT r.* FROM audit.record r
     WHERE r.server = s.server AND r.session_id = s.session_id AND r.line_num > s.line_num
       AND r.kind IN ('duration', 'error')
     ORDER BY r.line_num LIMIT 1) ending ON true
  LEFT JOIN LATERAL (
    SELECT r.line_num, r.statement_id, r.tag FROM audit.record r
     WHERE r.server = s.server AND r.session_id = s.session_id AND r.line_num > coalesce(previous.line_num, 0)
       AND r.kind = 'statement' AND r.vxid IS NOT DISTINCT FROM s.vxid
     ORDER BY r.line_num LIMIT 1) first ON true
  CROSS JOIN LATERAL audit.own_line(s.server, s.session_id, s.line_num, s.statement_id, s.tag) own
  CROSS JOIN LATERAL audit.own_line(s.server, s.session_id, first.line_num, first.statement_id, first.tag) opening
  -- The message's text where it is certain.
  CROSS JOIN LATERAL (
    SELECT CASE
      WHEN ending.kind = 'error' AND EXISTS (
        SELECT FROM audit.record r
         WHERE r.server = s.server AND r.session_id = s.session_id AND r.line_num > coalesce(previous.line_num, 0)
           AND r.line_num < ending.line_num AND r.kind = 'statement' AND r.statement = ending.statement)
      THEN ending.statement
      WHEN first.tag IN ('COMMIT', 'COPY') AND opening.command = first.tag THEN opening.statement END AS text) sent
  CROSS JOIN LATERAL (
    SELECT EXISTS (
      SELECT FROM audit.record r
       WHERE r.server = s.server AND r.session_id = s.session_id AND r.line_num > s.line_num
         AND r.line_num < coalesce(ending.line_num, 9223372036854775807) AND r.kind = 'statement'
         AND r.statement_id <> s.statement_id AND (sent.text IS NULL OR r.statement = sent.text)) AS followed) f
  CROSS JOIN LATERAL (
    SELECT f.followed,
           NOT f.followed AND ending.kind = 'error' AND audit.belongs(ending, s.tag, s.vxid, own.statement) AS failed) o
  -- Deferred constraints of the extended protocol speak up at Sync, after the duration.
  LEFT JOIN LATERAL (
    SELECT r.sqlstate, r.message FROM (
      SELECT n.* FROM audit.record n
       WHERE n.server = s.server AND n.session_id = s.session_id AND n.line_num > ending.line_num
         AND n.kind IN ('statement', 'duration', 'error')
       ORDER BY n.line_num LIMIT 1) r
     WHERE ending.kind = 'duration' AND NOT f.followed AND r.kind = 'error' AND r.severity = 'ERROR'
       AND r.statement IS NULL AND r.tag = ending.tag AND r.tag <> 'idle') late ON true
 WHERE s.kind = 'statement' AND before.statement_id IS DISTINCT FROM s.statement_id
   AND (first.tag = 'BIND' OR own.statement = sent.text OR sent.text IS NULL);

-- One row per statement that a session sent, and how it ended.
CREATE VIEW audit.statement AS
SELECT server, at, session_id, line_num, pid, role, tenant, person, ground, database, address, application, class,
       command, object_type, object_name, statement, duration_ms, outcome, sqlstate, message
  FROM audit.started
UNION ALL
-- Statements that never started: refused by the gate, not permitted or not valid.
SELECT e.server, e.at, e.session_id, e.line_num, e.pid, e.role, e.tenant, e.person, e.ground, e.database, e.address,
       e.application, NULL, NULL, NULL, NULL, e.statement, NULL,
       CASE WHEN e.sqlstate = 'VBX01' THEN 'refused' ELSE 'error' END, e.sqlstate, e.message
  FROM audit.record e
  LEFT JOIN LATERAL (
    SELECT r.line_num FROM audit.record r
     WHERE r.server = e.server AND r.session_id = e.session_id AND r.line_num < e.line_num
       AND r.kind IN ('duration', 'error')
     ORDER BY r.line_num DESC LIMIT 1) previous ON true
  LEFT JOIN LATERAL (
    SELECT r.tag, r.vxid, r.statement FROM audit.record r
     WHERE r.server = e.server AND r.session_id = e.session_id AND r.line_num > coalesce(previous.line_num, 0)
       AND r.line_num < e.line_num AND r.kind = 'statement'
     ORDER BY (r.statement = e.statement) DESC, r.line_num DESC LIMIT 1) s ON true
 WHERE e.kind = 'error' AND e.statement IS NOT NULL
   AND audit.belongs(e, s.tag, s.vxid, s.statement) IS NOT TRUE
UNION ALL
-- In a transaction that has failed, the statement that ends it has a duration only; its command is all that is known.
SELECT d.server, d.at, d.session_id, d.line_num, d.pid, d.role, d.tenant, d.person, d.ground, d.database, d.address,
       d.application, 'MISC', d.tag, NULL, NULL, d.tag, d.duration_ms, 'ok', NULL, NULL
  FROM audit.record d
  JOIN LATERAL (
    SELECT r.kind FROM audit.record r
     WHERE r.server = d.server AND r.session_id = d.session_id AND r.line_num < d.line_num
       AND (r.kind IN ('statement', 'error') OR r.kind = 'duration' AND r.tag <> 'idle')
     ORDER BY r.line_num DESC LIMIT 1) previous ON previous.kind = 'error'
 WHERE d.kind = 'duration' AND d.tag IN ('COMMIT', 'ROLLBACK');

-- Lines of a session that never came, such as those of a file that was gone before a shipper ever saw its name:
-- PostgreSQL numbers a session's lines without holes.
CREATE VIEW audit.hole AS
SELECT server, session_id, role, coalesce(before, 0) + 1 AS first_line, line_num - 1 AS last_line, at AS found_before
  FROM (SELECT r.server, r.session_id, r.role, r.line_num, r.at,
               lag(r.line_num) OVER (PARTITION BY r.server, r.session_id ORDER BY r.line_num) AS before
          FROM audit.record r) numbered
 WHERE line_num > coalesce(before, 0) + 1;

GRANT USAGE ON SCHEMA audit TO audit_append, audit_read;
GRANT INSERT ON audit.record, audit.gap, audit.quarantine TO audit_append;
GRANT SELECT, INSERT, UPDATE ON audit.checkpoint TO audit_append;
GRANT EXECUTE ON FUNCTION audit.ensure_day(date) TO audit_append;
GRANT SELECT ON ALL TABLES IN SCHEMA audit TO audit_read;
