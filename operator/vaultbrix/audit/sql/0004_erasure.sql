-- Redaction: the content of single rows is erased on request. What proofs need stays, and an event says which rows they
-- were (vaultbrix.audit.erasure reads it).

-- Events name people too: who asked for whose statements.
ALTER TABLE audit.event ADD COLUMN redaction bigint;

-- `a, b, c` names each of the three. A name may hold a comma itself.
CREATE FUNCTION audit.names(p_person text, p_name text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT p_person <> '' AND position(', ' || p_name || ', ' IN ', ' || p_person || ', ') > 0
$$;
CREATE FUNCTION audit.without(p_person text, p_name text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN length(rest) <= 2 THEN '' ELSE substr(rest, 3, length(rest) - 4) END
    FROM (SELECT replace(', ' || array_to_string(array_remove(string_to_array(p_person, ', '), p_name), ', ') || ', ',
                         ', ' || p_name || ', ', ', ') AS rest) r
$$;

-- Roles that the product makes. They name tenants, rules and approvals; others may be a person's.
CREATE FUNCTION audit.is_ours(p_role text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT p_role ^@ 'tenant_' OR p_role ^@ 'vaultbrix_'
$$;

-- Partitions that hold records, oldest first. `keep` is NULL for a day from before days were divided, `day` for a table
-- that somebody else attached.
CREATE FUNCTION audit.leaves() RETURNS TABLE(name text, day date, keep int)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT c.relname, CASE WHEN ours THEN to_date(substr(c.relname, 8, 8), 'YYYYMMDD') END,
         CASE WHEN ours THEN nullif(split_part(c.relname, '_', 3), '')::int END
    FROM pg_partition_tree('audit.record') t JOIN pg_class c ON c.oid = t.relid
   CROSS JOIN LATERAL (SELECT c.relname ~ '^record_[0-9]{8}(_[0-9]{1,5})?$' AS ours) n
   WHERE t.isleaf AND c.relkind = 'r' ORDER BY 2, 3
$$;
REVOKE ALL ON FUNCTION audit.leaves() FROM PUBLIC;

-- Erase rows of one table by their place, each 1000 under an event of their own so that none grows without bound.
-- `p_person`: who is taken out of a list of several, NULL: all of them.
CREATE FUNCTION audit.erase(p_table text, p_places tid[], p_person text, p_why jsonb) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  part text;
  content text;
  columns text;   -- that had content
  erased bigint;
BEGIN
  IF cardinality(p_places) = 0 THEN RETURN 0; END IF;
  CASE p_table
    WHEN 'quarantine' THEN
      part := '''quarantine''';
      columns := 'line';
      content := 'line = ''''';
    WHEN 'event' THEN
      part := '''event''';
      columns := 'detail';
      content := 'detail = r.detail - ''{person,role,text}''::text[] || ''{"redacted": true}''';
    ELSE
      part := '''record '' || to_char(r.at AT TIME ZONE ''UTC'', ''YYYY-MM-DD'') || '' '' || r.keep';
      columns := 'person, ground, role, address, application, object_name, statement, message';
      content := 'person = coalesce(audit.without(r.person, $2), ''''), ground = '''','
                 ' role = CASE WHEN audit.is_ours(r.role) THEN r.role END,'
                 ' address = NULL, application = NULL, object_name = NULL,'
                 -- Empty, where there was a text: that there was a statement, or an error, is no secret.
                 ' statement = left(r.statement, 0), message = left(r.message, 0)';
  END CASE;
  EXECUTE format($sql$
    WITH place AS MATERIALIZED (
      SELECT p.place, (p.n - 1) / 1000 AS lot FROM unnest($1) WITH ORDINALITY AS p(place, n)),
    lot AS MATERIALIZED (
      SELECT lot, nextval('audit.event_id_seq') AS event FROM place GROUP BY lot),
    done AS (
      UPDATE audit.%1$I r SET %2$s, salt = NULL, redaction = lot.event
        FROM place JOIN lot USING (lot)
       WHERE r.ctid = place.place AND r.redaction IS NULL
      RETURNING lot.event, r.server, r.batch, %3$s AS part, r.leaf_index),
    run AS (
      SELECT event, server, batch, part, min(leaf_index) AS first, max(leaf_index) AS last
        FROM (SELECT done.*, leaf_index - row_number() OVER (PARTITION BY event, server, batch, part ORDER BY leaf_index)
                     AS island FROM done WHERE batch IS NOT NULL) numbered
       GROUP BY event, server, batch, part, island),
    listed AS (
      SELECT event, jsonb_agg(jsonb_build_array(server, batch, part, runs) ORDER BY server, batch, part) AS rows
        FROM (SELECT event, server, batch, part, jsonb_agg(jsonb_build_array(first, last) ORDER BY first) AS runs
                FROM run GROUP BY event, server, batch, part) grouped
       GROUP BY event),
    noted AS (
      INSERT INTO audit.event(id, kind, actor, detail) OVERRIDING SYSTEM VALUE
      SELECT d.event, 'redacted', session_user,
             $3 || jsonb_build_object('rows', coalesce(l.rows, '[]'), 'unsealed', d.unsealed)
        FROM (SELECT event, count(*) FILTER (WHERE batch IS NULL) AS unsealed FROM done GROUP BY event) d
        LEFT JOIN listed l USING (event))
    SELECT count(*) FROM done $sql$, p_table, content, part) INTO erased USING p_places, p_person, p_why;
  -- Statistics hold samples of what was there.
  EXECUTE format('ANALYZE audit.%I (%s)', p_table, columns);
  RETURN erased;
END $$;
REVOKE ALL ON FUNCTION audit.erase(text, tid[], text, jsonb) FROM PUBLIC;

CREATE FUNCTION audit.why(p_by text, p_reason text, p_name text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF p_reason IS NULL OR length(btrim(p_reason)) NOT BETWEEN 1 AND 500 THEN
    RAISE EXCEPTION 'reason must have 1 to 500 characters';
  END IF;
  -- A shorter name is part of too many words.
  IF length(p_name) >= 3 AND position(lower(p_name) IN lower(p_reason)) > 0 THEN
    RAISE EXCEPTION 'reason must not name the person: it is kept; name the request instead';
  END IF;
  RETURN jsonb_build_object('version', 1, 'request', gen_random_uuid(), 'by', p_by, 'reason', p_reason);
END $$;
REVOKE ALL ON FUNCTION audit.why(text, text, text) FROM PUBLIC;

-- Erase all that names a person: records, also those of a role of that name that is none of the product's; those that
-- name nobody in the same sessions, such as a connection's first lines; quarantined lines of these sessions or with the
-- name in them; and who asked for the person's statements.
-- Returns how many of each, and how many `waiting` for their seal were left. Without `p_really`, only counts.
CREATE FUNCTION audit.redact_person(p_name text, p_reason text, p_really boolean) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  why jsonb;
  sessions text[];
  leaf record;
  places tid[];
  records bigint := 0;
  quarantined bigint;
  events bigint;
  waiting bigint;
BEGIN
  IF p_name IS NULL OR btrim(p_name) = '' THEN RAISE EXCEPTION 'the person must be named'; END IF;
  why := audit.why('person', p_reason, p_name);
  -- This locks all partitions against retention too.
  SELECT coalesce(array_agg(DISTINCT server || E'\n' || session_id), '{}') INTO sessions
    FROM audit.record WHERE audit.names(person, p_name) OR role = p_name AND NOT audit.is_ours(role);
  FOR leaf IN SELECT name FROM audit.leaves() LOOP
    EXECUTE format('SELECT coalesce(array_agg(ctid), ''{}'') FROM audit.%I WHERE redaction IS NULL AND (audit.names(person, $1)'
                   ' OR role = $1 AND NOT audit.is_ours(role) OR person = '''' AND server || E''\n'' || session_id IN (SELECT unnest($2)))', leaf.name)
      INTO places USING p_name, sessions;
    records := records + CASE WHEN p_really THEN audit.erase(leaf.name, places, p_name, why) ELSE cardinality(places) END;
  END LOOP;
  SELECT coalesce(array_agg(ctid), '{}') INTO places FROM audit.quarantine
   WHERE redaction IS NULL
     AND (position(convert_to(p_name, 'UTF8') IN line) > 0
          -- Within a text of the line, the quotes would have backslashes.
          OR server || E'\n' || (regexp_match(encode(line, 'escape'), '"session_id":"([^"\\]*)"'))[1] IN (SELECT unnest(sessions)));
  quarantined := CASE WHEN p_really THEN audit.erase('quarantine', places, NULL, why) ELSE cardinality(places) END;
  -- A shipper that has just read an event would seal what it read.
  SELECT coalesce(array_agg(ctid) FILTER (WHERE batch IS NOT NULL), '{}'), count(*) FILTER (WHERE batch IS NULL)
    INTO places, waiting FROM audit.event
   WHERE redaction IS NULL AND kind = 'read' AND p_name IN (detail->>'person', detail->>'role');
  events := CASE WHEN p_really THEN audit.erase('event', places, NULL, why) ELSE cardinality(places) END;
  RETURN jsonb_build_object('request', why->'request', 'records', records, 'quarantine', quarantined, 'events', events,
                            'waiting', waiting);
END $$;
REVOKE ALL ON FUNCTION audit.redact_person(text, text, boolean) FROM PUBLIC;

-- Erase records by session and line number, each with all lines of the same client's message, since they hold the same
-- text: from after the line that ended the message before to the one that ended this, and what a deferred constraint
-- said afterwards.
CREATE FUNCTION audit.redact_records(p_server text, p_sessions text[], p_lines bigint[], p_reason text, p_really boolean)
RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  why jsonb := audit.why('record', p_reason, NULL);
  wanted record;
  first bigint;
  last bigint;
  late bigint;
  leaf record;
  tables oid[] := '{}';
  places tid[] := '{}';
  found oid[];
  found_places tid[];
  records bigint := 0;
BEGIN
  IF cardinality(p_sessions) IS DISTINCT FROM cardinality(p_lines) THEN
    RAISE EXCEPTION 'as many sessions as lines are needed';
  END IF;
  FOR wanted IN SELECT s.session_id, s.line_num, (
                  SELECT r.kind FROM audit.record r
                   WHERE r.server = p_server AND r.session_id = s.session_id AND r.line_num = s.line_num LIMIT 1) AS kind
                  FROM unnest(p_sessions, p_lines) AS s(session_id, line_num) LOOP
    IF wanted.kind IS NULL THEN
      RAISE EXCEPTION 'server % has no record of session % with line %', p_server, wanted.session_id, wanted.line_num;
    END IF;
    first := wanted.line_num;
    last := wanted.line_num;
    IF wanted.kind NOT IN ('connection', 'authentication', 'disconnection') THEN
      SELECT coalesce(max(r.line_num), 0) + 1 INTO first FROM audit.record r
       WHERE r.server = p_server AND r.session_id = wanted.session_id AND r.line_num < wanted.line_num
         AND r.kind IN ('duration', 'error', 'connection', 'authentication');
      SELECT coalesce(min(r.line_num), 9223372036854775807) INTO last FROM audit.record r
       WHERE r.server = p_server AND r.session_id = wanted.session_id AND r.line_num >= wanted.line_num
         AND r.kind IN ('duration', 'error', 'disconnection');
      SELECT n.line_num INTO late FROM (
        SELECT r.line_num, r.kind, r.statement FROM audit.record r
         WHERE r.server = p_server AND r.session_id = wanted.session_id AND r.line_num > last
           AND r.kind IN ('statement', 'duration', 'error') ORDER BY r.line_num LIMIT 1) n
       WHERE n.kind = 'error' AND n.statement IS NULL;
      last := coalesce(late, last);
    END IF;
    SELECT coalesce(array_agg(r.tableoid), '{}'), coalesce(array_agg(r.ctid), '{}') INTO found, found_places
      FROM audit.record r
     WHERE r.server = p_server AND r.session_id = wanted.session_id AND r.line_num BETWEEN first AND last
       AND r.redaction IS NULL;
    tables := tables || found;
    places := places || found_places;
  END LOOP;
  FOR leaf IN SELECT c.relname, array_agg(DISTINCT f.place) AS places
                FROM unnest(tables, places) AS f(home, place) JOIN pg_class c ON c.oid = f.home GROUP BY c.relname LOOP
    records := records + CASE WHEN p_really THEN audit.erase(leaf.relname, leaf.places, NULL, why)
                              ELSE cardinality(leaf.places) END;
  END LOOP;
  RETURN jsonb_build_object('request', why->'request', 'records', records, 'quarantine', 0, 'events', 0, 'waiting', 0);
END $$;
REVOKE ALL ON FUNCTION audit.redact_records(text, text[], bigint[], text, boolean) FROM PUBLIC;

-- Erase quarantined lines by number, for those that name no session any more.
CREATE FUNCTION audit.redact_quarantine(p_ids bigint[], p_reason text, p_really boolean) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  why jsonb := audit.why('record', p_reason, NULL);
  missing bigint;
  places tid[];
BEGIN
  SELECT min(w.id) INTO missing FROM unnest(p_ids) AS w(id) WHERE NOT EXISTS (SELECT FROM audit.quarantine q WHERE q.id = w.id);
  IF missing IS NOT NULL THEN RAISE EXCEPTION 'there is no quarantined line with number %', missing; END IF;
  SELECT coalesce(array_agg(ctid), '{}') INTO places FROM audit.quarantine WHERE id = ANY(p_ids) AND redaction IS NULL;
  RETURN jsonb_build_object('request', why->'request', 'records', 0, 'events', 0, 'waiting', 0, 'quarantine',
    CASE WHEN p_really THEN audit.erase('quarantine', places, NULL, why) ELSE cardinality(places) END);
END $$;
REVOKE ALL ON FUNCTION audit.redact_quarantine(bigint[], text, boolean) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION audit.redact_person(text, text, boolean), audit.redact_quarantine(bigint[], text, boolean),
  audit.redact_records(text, text[], bigint[], text, boolean) TO audit_redact;
