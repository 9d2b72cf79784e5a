-- Statements within a time, so that a question about a day plans and reads that day's partitions and their neighbours
-- only.
DROP VIEW audit.statement;
DROP VIEW audit.started;
DROP FUNCTION audit.own_line(text, text, bigint, bigint, text);

-- The line that stands for a statement, given the first one: a utility's own line, else the first. With pgaudit.log_rows
-- lines are written when a statement ends, after those of what it ran: then the first of the last.
CREATE FUNCTION audit.own_line(p_server text, p_session text, p_line bigint, p_id bigint, p_tag text,
                               p_from timestamptz, p_to timestamptz)
RETURNS TABLE(class text, command text, object_type text, object_name text, statement text, row_count bigint)
LANGUAGE sql STABLE AS $$
  SELECT r.class, r.command, r.object_type, r.object_name, r.statement, r.row_count
    FROM audit.record r
   WHERE r.server = p_server AND r.session_id = p_session AND r.kind = 'statement' AND r.line_num >= p_line
     AND r.at >= p_from AND r.at < p_to
     AND r.line_num < coalesce((
       SELECT n.line_num FROM audit.record n
        WHERE n.server = p_server AND n.session_id = p_session AND n.line_num > p_line AND n.kind = 'statement'
          AND n.at >= p_from AND n.at < p_to
          AND n.statement_id <> p_id ORDER BY n.line_num LIMIT 1), 9223372036854775807)
   ORDER BY CASE WHEN r.command <> p_tag OR p_tag IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'MERGE', 'DO')
                 THEN CASE WHEN r.row_count IS NULL THEN 0 ELSE -r.substatement_id END
                 -- A DROP TABLE has lines for the table's triggers and constraints too.
                 WHEN right(p_tag, length(r.object_type)) = r.object_type THEN -2 * r.line_num - 4611686018427387904
                 ELSE -r.line_num END, r.line_num
   LIMIT 1
$$;

-- How a statement ended that did not end well. Cancelled: by somebody, by a timeout, or with its session.
CREATE FUNCTION audit.failure(p_sqlstate text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN p_sqlstate = 'VBX01' THEN 'refused' WHEN p_sqlstate IN ('57014', '57P01') THEN 'cancelled'
              ELSE 'error' END
$$;

-- As audit.started says in 0001; lines outside of the time are as if there were none.
CREATE FUNCTION audit.started_within(p_from timestamptz, p_to timestamptz)
RETURNS TABLE(server text, at timestamptz, session_id text, line_num bigint, pid int, role text, tenant text, person text,
              ground text, database text, address inet, application text, class text, command text, object_type text,
              object_name text, statement text, duration_ms double precision, sqlstate text, message text, outcome text,
              row_count bigint)
LANGUAGE sql STABLE AS $$
SELECT s.server, s.at, s.session_id, s.line_num, s.pid, s.role, s.tenant, s.person, s.ground, s.database, s.address,
       s.application, own.class, own.command, own.object_type, own.object_name,
       CASE WHEN o.failed THEN coalesce(ending.statement, own.statement) ELSE own.statement END,
       CASE WHEN NOT o.followed THEN ending.duration_ms END,
       CASE WHEN o.failed THEN ending.sqlstate ELSE late.sqlstate END,
       CASE WHEN o.failed THEN ending.message ELSE late.message END,
       CASE WHEN o.failed THEN audit.failure(ending.sqlstate)
            WHEN late.sqlstate IS NOT NULL THEN audit.failure(late.sqlstate)
            WHEN o.followed OR ending.kind IS NOT NULL THEN 'ok'
            ELSE 'unknown' END,
       own.row_count
  FROM audit.record s
  LEFT JOIN LATERAL (
    SELECT r.statement_id FROM audit.record r
     WHERE r.server = s.server AND r.session_id = s.session_id AND r.line_num < s.line_num AND r.kind = 'statement'
       AND r.at >= p_from AND r.at < p_to
     ORDER BY r.line_num DESC LIMIT 1) before ON true
  LEFT JOIN LATERAL (
    SELECT r.line_num FROM audit.record r
     WHERE r.server = s.server AND r.session_id = s.session_id AND r.line_num < s.line_num
       AND r.kind IN ('duration', 'error') AND r.at >= p_from AND r.at < p_to
     ORDER BY r.line_num DESC LIMIT 1) previous ON true
  LEFT JOIN LATERAL (
    SELECT r.* FROM audit.record r
     WHERE r.server = s.server AND r.session_id = s.session_id AND r.line_num > s.line_num
       AND r.kind IN ('duration', 'error') AND r.at >= p_from AND r.at < p_to
     ORDER BY r.line_num LIMIT 1) ending ON true
  LEFT JOIN LATERAL (
    SELECT r.line_num, r.statement_id, r.tag FROM audit.record r
     WHERE r.server = s.server AND r.session_id = s.session_id AND r.line_num > coalesce(previous.line_num, 0)
       AND r.kind = 'statement' AND r.vxid IS NOT DISTINCT FROM s.vxid AND r.at >= p_from AND r.at < p_to
     ORDER BY r.line_num LIMIT 1) first ON true
  CROSS JOIN LATERAL audit.own_line(s.server, s.session_id, s.line_num, s.statement_id, s.tag, p_from, p_to) own
  CROSS JOIN LATERAL audit.own_line(
    s.server, s.session_id, first.line_num, first.statement_id, first.tag, p_from, p_to) opening
  -- The message's text where it is certain.
  CROSS JOIN LATERAL (
    SELECT CASE
      WHEN ending.kind = 'error' AND EXISTS (
        SELECT FROM audit.record r
         WHERE r.server = s.server AND r.session_id = s.session_id AND r.line_num > coalesce(previous.line_num, 0)
           AND r.line_num < ending.line_num AND r.kind = 'statement' AND r.statement = ending.statement
           AND r.at >= p_from AND r.at < p_to)
      THEN ending.statement
      WHEN first.tag IN ('COMMIT', 'COPY') AND opening.command = first.tag THEN opening.statement END AS text
    -- Once, and not wherever it is used.
    OFFSET 0) sent
  CROSS JOIN LATERAL (
    SELECT EXISTS (
      SELECT FROM audit.record r
       WHERE r.server = s.server AND r.session_id = s.session_id AND r.line_num > s.line_num
         AND r.line_num < coalesce(ending.line_num, 9223372036854775807) AND r.kind = 'statement'
         AND r.statement_id <> s.statement_id AND (sent.text IS NULL OR r.statement = sent.text)
         AND r.at >= p_from AND r.at < p_to) AS followed
    OFFSET 0) f
  CROSS JOIN LATERAL (
    SELECT f.followed,
           NOT f.followed AND ending.kind = 'error' AND audit.belongs(ending, s.tag, s.vxid, own.statement) AS failed) o
  -- Deferred constraints of the extended protocol speak up at Sync, after the duration.
  LEFT JOIN LATERAL (
    SELECT r.sqlstate, r.message FROM (
      SELECT n.* FROM audit.record n
       WHERE n.server = s.server AND n.session_id = s.session_id AND n.line_num > ending.line_num
         AND n.kind IN ('statement', 'duration', 'error') AND n.at >= p_from AND n.at < p_to
       ORDER BY n.line_num LIMIT 1) r
     WHERE ending.kind = 'duration' AND NOT f.followed AND r.kind = 'error' AND r.severity = 'ERROR'
       AND r.statement IS NULL AND r.tag = ending.tag AND r.tag <> 'idle') late ON true
 WHERE s.kind = 'statement' AND s.at >= p_from AND s.at < p_to
   AND before.statement_id IS DISTINCT FROM s.statement_id
   AND (first.tag = 'BIND' OR own.statement = sent.text OR sent.text IS NULL)
$$;

-- One row per statement that a session sent, and how it ended.
CREATE FUNCTION audit.statements_within(p_from timestamptz, p_to timestamptz)
RETURNS TABLE(server text, at timestamptz, session_id text, line_num bigint, pid int, role text, tenant text, person text,
              ground text, database text, address inet, application text, class text, command text, object_type text,
              object_name text, statement text, duration_ms double precision, outcome text, sqlstate text, message text,
              row_count bigint)
LANGUAGE sql STABLE AS $$
SELECT server, at, session_id, line_num, pid, role, tenant, person, ground, database, address, application, class,
       command, object_type, object_name, statement, duration_ms, outcome, sqlstate, message, row_count
  FROM audit.started_within(p_from, p_to)
UNION ALL
-- Statements that never started: refused by the gate, not permitted or not valid. Of those that PostgreSQL could parse,
-- the command is known.
SELECT e.server, e.at, e.session_id, e.line_num, e.pid, e.role, e.tenant, e.person, e.ground, e.database, e.address,
       e.application, NULL, CASE WHEN e.tag NOT IN ('PARSE', 'BIND', 'idle') THEN e.tag END, NULL, NULL, e.statement, NULL,
       audit.failure(e.sqlstate), e.sqlstate, e.message, NULL
  FROM audit.record e
  LEFT JOIN LATERAL (
    SELECT r.line_num FROM audit.record r
     WHERE r.server = e.server AND r.session_id = e.session_id AND r.line_num < e.line_num
       AND r.kind IN ('duration', 'error') AND r.at >= p_from AND r.at < p_to
     ORDER BY r.line_num DESC LIMIT 1) previous ON true
  LEFT JOIN LATERAL (
    SELECT r.tag, r.vxid, r.statement FROM audit.record r
     WHERE r.server = e.server AND r.session_id = e.session_id AND r.line_num > coalesce(previous.line_num, 0)
       AND r.line_num < e.line_num AND r.kind = 'statement' AND r.at >= p_from AND r.at < p_to
     ORDER BY (r.statement = e.statement) DESC, r.line_num DESC LIMIT 1) s ON true
 WHERE e.kind = 'error' AND e.statement IS NOT NULL AND e.at >= p_from AND e.at < p_to
   AND audit.belongs(e, s.tag, s.vxid, s.statement) IS NOT TRUE
UNION ALL
-- In a transaction that has failed, the statement that ends it has a duration only; its command is all that is known.
SELECT d.server, d.at, d.session_id, d.line_num, d.pid, d.role, d.tenant, d.person, d.ground, d.database, d.address,
       d.application, 'MISC', d.tag, NULL, NULL, d.tag, d.duration_ms, 'ok', NULL, NULL, NULL
  FROM audit.record d
  JOIN LATERAL (
    SELECT r.kind FROM audit.record r
     WHERE r.server = d.server AND r.session_id = d.session_id AND r.line_num < d.line_num
       AND (r.kind IN ('statement', 'error') OR r.kind = 'duration' AND r.tag <> 'idle')
       AND r.at >= p_from AND r.at < p_to
     ORDER BY r.line_num DESC LIMIT 1) previous ON previous.kind = 'error'
 WHERE d.kind = 'duration' AND d.tag IN ('COMMIT', 'ROLLBACK') AND d.at >= p_from AND d.at < p_to
$$;

CREATE VIEW audit.started WITH (security_invoker = true) AS
SELECT * FROM audit.started_within('-infinity', 'infinity');
CREATE VIEW audit.statement WITH (security_invoker = true) AS
SELECT * FROM audit.statements_within('-infinity', 'infinity');
GRANT SELECT ON audit.started, audit.statement TO audit_read;

-- Indexes for the questions that people ask, as measured (tests/bench/test_audit_query.py): in the order of time, and of
-- the lines that may stand for statements only, half of all. A shipper waits while they are built; nothing is lost, as
-- the log on disk waits too. None for text: a trigram index costs more to write than all others together.
DROP INDEX audit.record_tenant_at_idx, audit.record_at_idx, audit.record_batch_idx;
CREATE INDEX record_newest ON audit.record(at)
  WHERE kind IN ('statement', 'error') OR kind = 'duration' AND tag IN ('COMMIT', 'ROLLBACK');
CREATE INDEX record_tenant ON audit.record(tenant, at)
  WHERE kind IN ('statement', 'error') OR kind = 'duration' AND tag IN ('COMMIT', 'ROLLBACK');
CREATE INDEX record_person ON audit.record(person, at)
  WHERE kind IN ('statement', 'error') OR kind = 'duration' AND tag IN ('COMMIT', 'ROLLBACK');
CREATE INDEX record_ground ON audit.record(ground, at)
  WHERE kind IN ('statement', 'error') OR kind = 'duration' AND tag IN ('COMMIT', 'ROLLBACK');
CREATE INDEX record_address ON audit.record(address, at)
  WHERE kind IN ('statement', 'error') OR kind = 'duration' AND tag IN ('COMMIT', 'ROLLBACK');
-- Several people behind one address are few; so are lines of classes other than these, and errors.
CREATE INDEX record_shared ON audit.record(at) WHERE ground LIKE '%, %';
CREATE INDEX record_rare ON audit.record(at) WHERE kind = 'statement' AND class <> ALL ('{READ,WRITE,MISC}');
CREATE INDEX record_error ON audit.record(at) WHERE kind = 'error';
-- The last part of an object's name, as people know it.
CREATE FUNCTION audit.bare_name(p_object text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT substring(p_object FROM '[^.]*$')
$$;
CREATE INDEX record_object ON audit.record(audit.bare_name(object_name), at)
  WHERE kind = 'statement' AND object_name IS NOT NULL;
-- What is new, and a batch as a whole.
CREATE INDEX record_batch ON audit.record(server, batch);
