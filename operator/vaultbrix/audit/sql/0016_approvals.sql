-- Decisions on record. `approver`, of a record: who approved what let the person in, or what ran; several as in `person`.
-- It is the last field of a row's sealed line, and that line ends before it where nobody approved: so what was sealed
-- before there were approvers is checked as ever (vaultbrix.audit.rows).
ALTER TABLE audit.record ADD COLUMN approver text NOT NULL DEFAULT '';
CREATE INDEX record_approver ON audit.record(at) WHERE approver <> '';

-- What became of approvals: asked for, decided on, run, ended. `detail` is that of vaultbrix.audit.trail.
ALTER TABLE audit.event DROP CONSTRAINT event_kind_check,
  ADD CONSTRAINT event_kind_check CHECK (kind IN ('read','redacted','expired','retention','exported','reader','verified','approval'));
-- Whoever stores it twice, after a crash or as a second replica, stores it once. What erasure leaves still has both.
CREATE UNIQUE INDEX event_approval ON audit.event((detail->>'uid'), (detail->>'id')) WHERE kind = 'approval';
CREATE INDEX event_approval_name ON audit.event((detail->>'namespace'), (detail->>'name'), id) WHERE kind = 'approval';

-- Put events on record, all or none; those that are there already stay as they are. Returns how many were not there.
CREATE FUNCTION audit.note_approvals(p_details jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  one jsonb;
  made bigint := 0;
BEGIN
  FOR one IN SELECT * FROM jsonb_array_elements(p_details) LOOP
    IF octet_length(one::text) > 65536 THEN RAISE EXCEPTION 'an event is longer than 64 KiB'; END IF;
    IF coalesce(one->>'uid', '') = '' OR coalesce(one->>'id', '') = '' OR one ? 'redacted' THEN
      RAISE EXCEPTION 'an event needs uid and id, and is not redacted from the beginning';
    END IF;
    INSERT INTO audit.event(kind, actor, detail) VALUES ('approval', session_user, one) ON CONFLICT DO NOTHING;
    IF FOUND THEN made := made + 1; END IF;
  END LOOP;
  RETURN made;
END $$;
REVOKE ALL ON FUNCTION audit.note_approvals(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.note_approvals(jsonb) TO audit_manage;

-- For a shipper that was started anew: the gate's line before an approved text (vaultbrix.audit.shipping.approvals) that
-- a session was sending before one of its lines, where that message has not ended.
CREATE FUNCTION audit.last_approval(p_server text, p_session text, p_line bigint) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT last.message FROM (
    SELECT r.kind, r.message FROM audit.record r
     WHERE r.server = p_server AND r.session_id = p_session AND r.line_num < p_line
       AND (r.kind IN ('duration', 'error') OR r.kind = 'gate' AND r.message ^@ 'APPROVED: ')
       AND r.at >= CASE WHEN p_session ~ '^[0-9a-f]{1,12}\.[0-9a-f]{1,8}$'
                        THEN to_timestamp(('x' || lpad(split_part(p_session, '.', 1), 16, '0'))::bit(64)::bigint)
                             - interval '1 day' ELSE '-infinity' END
     ORDER BY r.line_num DESC LIMIT 1) last
   WHERE last.kind = 'gate'
$$;
REVOKE ALL ON FUNCTION audit.last_approval(text, text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.last_approval(text, text, bigint) TO audit_append;

-- As before, and who approved.
CREATE OR REPLACE VIEW audit.statement WITH (security_invoker = true) AS
SELECT s.*, coalesce((SELECT max(r.approver) FROM audit.record r
                       WHERE r.server = s.server AND r.session_id = s.session_id AND r.line_num = s.line_num AND r.at = s.at),
                     '') AS approver
  FROM audit.statements_within('-infinity', 'infinity') s;

-- As before, and of `approver`.
CREATE OR REPLACE FUNCTION audit.hits(p_filter jsonb, p_from timestamptz, p_to timestamptz, p_newest boolean, p_after jsonb,
                           p_most int)
RETURNS TABLE(server text, at timestamptz, session_id text, line_num bigint, kind text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
  f jsonb := jsonb_strip_nulls(p_filter);
  kinds text[] := '{statement}';
  everywhere text[] := '{}';       -- conditions of every arm
  of_statements text[] := '{}';    -- of lines of statements
  of_refusals text[] := '{}';      -- of refused requests
  drivers text[] := '{}';          -- one of them leads to the lines
  owners text[] := '{true}';       -- by tenant
  people text[] := '{true}';       -- several rules may have let in the same address: then a record names them all
  stored text[] := '{true}';       -- by batch
  requests text[];
  tenants text[];
  known text[];
  arms text := '';
  a text; b text; c text; d text;
  descending text := CASE WHEN p_newest THEN 'DESC' ELSE 'ASC' END;
  ordered text;
  address inet := f->>'address';
  pattern text := '%' || replace(replace(replace(f->>'text', '\', '\\'), '%', '\%'), '_', '\_') || '%';
BEGIN
  IF f ? 'kinds' THEN kinds := ARRAY(SELECT jsonb_array_elements_text(f->'kinds')); END IF;
  IF f ? 'tenants' THEN tenants := ARRAY(SELECT jsonb_array_elements_text(f->'tenants')); END IF;
  IF NOT audit.sees_all() THEN
    known := ARRAY(SELECT audit.tenants(p_from, p_to));
    tenants := CASE WHEN tenants IS NULL THEN known
                    ELSE ARRAY(SELECT unnest(tenants) INTERSECT SELECT unnest(known)) END;
  END IF;
  IF tenants IS NOT NULL THEN
    -- By index and in order for each; where there are many, better all at once.
    owners := CASE WHEN cardinality(tenants) BETWEEN 1 AND 16
                   THEN ARRAY(SELECT format('tenant = %L', t) FROM unnest(tenants) t)
                   ELSE ARRAY[format('tenant = ANY(%L::text[])', tenants)] END;
  END IF;

  IF f ? 'person' AND f ? 'ground' THEN
    people := ARRAY[
      format('person = %L AND ground = %L', f->>'person', f->>'ground'),
      format('ground LIKE ''%%, %%'' AND audit.names(person, %L) AND %L = ANY(string_to_array(ground, '', ''))',
             f->>'person', f->>'ground')];
  ELSIF f ? 'person' THEN
    people := ARRAY[
      format('person = %L', f->>'person'),
      format('ground LIKE ''%%, %%'' AND person <> %1$L AND audit.names(person, %1$L)', f->>'person')];
  ELSIF f ? 'ground' THEN
    people := ARRAY[
      format('ground = %L', f->>'ground'),
      format('ground LIKE ''%%, %%'' AND %L = ANY(string_to_array(ground, '', ''))', f->>'ground')];
  END IF;

  IF address IS NOT NULL THEN
    everywhere := everywhere || format(
      CASE WHEN masklen(address) = CASE family(address) WHEN 4 THEN 32 ELSE 128 END
           THEN 'address = %L::inet' ELSE 'address <<= %L::inet' END, address);
  END IF;
  -- Of a key without its namespace.
  IF f ? 'key' THEN
    everywhere := everywhere || format('ground ^@ ''key:'' AND right(ground, %s) = %L', length(f->>'key') + 1, '/' || (f->>'key'));
  END IF;
  -- What came after the request's line, before that of the session's next one.
  IF f ? 'request' THEN
    requests := ARRAY(
      SELECT format('server = %L AND session_id = %L AND line_num > %s AND line_num < %s AND ground = %L AND tenant = %L',
                    q.server, q.session_id, q.line_num, coalesce((
                      SELECT n.line_num FROM audit.record n
                       WHERE n.server = q.server AND n.session_id = q.session_id AND n.line_num > q.line_num
                         AND n.kind = 'request' AND n.at >= q.at - interval '1 day' AND n.at < p_to + interval '1 day'
                       ORDER BY n.line_num LIMIT 1), 9223372036854775807), q.ground, q.tenant)
        FROM audit.record q
       WHERE q.kind = 'request' AND q.object_name = f->>'request' AND q.at >= p_from - interval '1 day'
         AND q.at < p_to + interval '1 day');
    of_statements := of_statements || CASE WHEN requests = '{}' THEN 'false'
                                           ELSE '((' || array_to_string(requests, ') OR (') || '))' END;
    of_refusals := of_refusals || format('object_name = %L', f->>'request');
  END IF;
  IF f ? 'approver' THEN
    everywhere := everywhere || format('approver <> '''' AND audit.names(approver, %L)', f->>'approver');
  END IF;
  IF f ? 'role' THEN everywhere := everywhere || format('role = %L', f->>'role'); END IF;
  IF NOT coalesce((f->>'everybody')::boolean, false) THEN
    of_statements := of_statements || '(role ^@ ''tenant_'' OR role ^@ ''vaultbrix_d_'')'::text;
  END IF;

  IF f ? 'object' THEN
    drivers := ARRAY[format('kind = ''statement'' AND object_name IS NOT NULL AND audit.bare_name(object_name) = %L',
                            audit.bare_name(f->>'object'))];
    IF f->>'object' LIKE '%.%' THEN of_statements := of_statements || format('object_name = %L', f->>'object'); END IF;
  ELSIF f->>'outcome' = 'refused' THEN drivers := ARRAY['kind = ''error'' AND sqlstate = ''VBX01'''];
  ELSIF f->>'outcome' = 'cancelled' THEN drivers := ARRAY['kind = ''error'' AND sqlstate IN (''57014'', ''57P01'')'];
  ELSIF f->>'outcome' = 'error' THEN
    drivers := ARRAY['kind = ''error'' AND sqlstate NOT IN (''VBX01'', ''57014'', ''57P01'')'];
  ELSIF f ? 'class' THEN drivers := ARRAY[format('kind = ''statement'' AND class = %L', f->>'class')];
    -- What ends a transaction that has failed.
    IF f->>'class' = 'MISC' THEN drivers := drivers || 'kind = ''duration'' AND tag IN (''COMMIT'', ''ROLLBACK'')'::text; END IF;
  ELSIF f ? 'command' THEN
    drivers := ARRAY[
      -- All of these are of class DDL or ROLE, whose lines are few.
      format('kind = ''statement'' AND command = %L%s', f->>'command',
             CASE WHEN f->>'command' ~ '^(CREATE|ALTER|DROP|GRANT|REVOKE)'
                  THEN ' AND class <> ALL (''{READ,WRITE,MISC}'')' ELSE '' END),
      format('kind = ''error'' AND tag = %L', f->>'command')];
    IF f->>'command' IN ('COMMIT', 'ROLLBACK') THEN
      drivers := drivers || format('kind = ''duration'' AND tag IN (''COMMIT'', ''ROLLBACK'') AND tag = %L', f->>'command');
    END IF;
  ELSE
    drivers := ARRAY['(kind IN (''statement'', ''error'') OR kind = ''duration'' AND tag IN (''COMMIT'', ''ROLLBACK''))'];
    IF f ? 'text' THEN
      of_statements := of_statements || format('coalesce(statement, tag) ILIKE %L', pattern);
    END IF;
  END IF;
  IF NOT 'statement' = ANY(kinds) THEN drivers := '{}'; END IF;
  drivers := ARRAY(SELECT array_to_string(driver || of_statements, ' AND ') FROM unnest(drivers) driver);
  -- A refused request took no role, touched nothing and ran nothing.
  IF 'refusal' = ANY(kinds) AND NOT f ?| '{role,object,class,command}' AND coalesce(f->>'outcome', 'refused') = 'refused' THEN
    IF f ? 'text' THEN of_refusals := of_refusals || format(
      'CASE WHEN kind = ''refusal'' THEN audit.refused_text(message) END ILIKE %L', pattern); END IF;
    drivers := drivers || array_to_string('kind = ''refusal'''::text || of_refusals, ' AND ');
  END IF;
  IF drivers = '{}' THEN RETURN; END IF;

  IF f ? 'batches' THEN
    stored := ARRAY(SELECT format('server = %L AND batch > %s', key, value::bigint) FROM jsonb_each_text(f->'batches'));
    stored := stored || format('server <> ALL(%L::text[])', ARRAY(SELECT jsonb_object_keys(f->'batches')));
  END IF;

  everywhere := everywhere || format('at >= %L AND at < %L',
    CASE WHEN p_newest OR p_after IS NULL THEN p_from ELSE greatest(p_from, (p_after->>'at')::timestamptz) END,
    CASE WHEN p_newest AND p_after IS NOT NULL
         THEN least(p_to, (p_after->>'at')::timestamptz + interval '1 microsecond') ELSE p_to END);
  IF p_after IS NOT NULL THEN
    everywhere := everywhere || format('(at, session_id, line_num) %s (%L, %L, %s)', CASE WHEN p_newest THEN '<' ELSE '>' END,
      p_after->>'at', p_after->>'session', (p_after->>'line')::bigint);
  END IF;

  ordered := format('ORDER BY at %1$s, session_id %1$s, line_num %1$s LIMIT %2$s', descending, p_most);
  FOREACH a IN ARRAY owners LOOP FOREACH b IN ARRAY people LOOP FOREACH c IN ARRAY stored LOOP FOREACH d IN ARRAY drivers LOOP
    arms := arms || CASE WHEN arms = '' THEN '' ELSE ' UNION ALL ' END || format(
      '(SELECT server, at, session_id, line_num, kind FROM audit.record WHERE %s %s)',
      array_to_string(ARRAY[a, b, c, d] || everywhere, ' AND '), ordered);
  END LOOP; END LOOP; END LOOP; END LOOP;
  RETURN QUERY EXECUTE format('SELECT * FROM (%s) hit %s', arms, ordered);
END $$;

-- As before, with who approved.
DROP FUNCTION audit.statements_at(jsonb, text[], text[], bigint[], timestamptz, timestamptz);
CREATE OR REPLACE FUNCTION audit.statements_at(p_filter jsonb, p_servers text[], p_sessions text[], p_lines bigint[],
                                    p_from timestamptz, p_to timestamptz)
RETURNS TABLE(server text, at timestamptz, session_id text, line_num bigint, pid int, role text, tenant text, person text,
              ground text, database text, address inet, application text, class text, command text, object_type text,
              object_name text, statement text, duration_ms double precision, outcome text, sqlstate text, message text,
              row_count bigint, objects text[], approver text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE f jsonb := jsonb_strip_nulls(p_filter);
BEGIN
  RETURN QUERY EXECUTE format($q$
    SELECT s.*, touched.objects, stands.approver
      FROM (SELECT DISTINCT * FROM unnest($1, $2, $3)) l(server, session_id, line_num)
     CROSS JOIN LATERAL (
       SELECT * FROM audit.statements_within(%1$L, %2$L) x
        WHERE x.server = l.server AND x.session_id = l.session_id AND x.line_num = l.line_num
       -- Line by line: as a join, it would be put together for all lines first.
       OFFSET 0) s
     CROSS JOIN LATERAL (
       SELECT array_agg(DISTINCT o.object_name) AS objects FROM (
         SELECT r.object_name FROM audit.record r
           JOIN LATERAL (
             SELECT f.statement_id FROM audit.record f
              WHERE f.server = l.server AND f.session_id = l.session_id AND f.line_num = l.line_num
                AND f.at >= %1$L AND f.at < %2$L LIMIT 1) f ON r.statement_id = f.statement_id
          WHERE r.server = l.server AND r.session_id = l.session_id AND r.kind = 'statement'
            AND r.line_num BETWEEN l.line_num AND l.line_num + 99 AND r.object_name IS NOT NULL
            AND r.at >= %1$L AND r.at < %2$L) o) touched
     CROSS JOIN LATERAL (
       SELECT max(r.approver) AS approver FROM audit.record r
        WHERE r.server = l.server AND r.session_id = l.session_id AND r.line_num = l.line_num AND r.at = s.at) stands
     WHERE ($4 OR s.tenant <> '' AND string_to_array(s.tenant, ', ') <@ $5)
       AND ($6 IS NULL OR s.class = $6) AND ($7 IS NULL OR s.command = $7) AND ($8 IS NULL OR s.statement ILIKE $8)
     UNION ALL
    SELECT r.server, r.at, r.session_id, r.line_num, r.pid, NULL, r.tenant, r.person, r.ground, r.database, r.address,
           r.application, NULL, audit.told(r.message)->>'method', NULL, r.object_name, audit.refused_text(r.message),
           NULL, 'refused', NULL, audit.told(r.message)->>'why', NULL, NULL, ''
      FROM (SELECT DISTINCT * FROM unnest($1, $2, $3)) l(server, session_id, line_num)
      JOIN audit.record r USING (server, session_id, line_num)
     WHERE r.kind = 'refusal' AND r.at >= %1$L AND r.at < %2$L
       AND ($4 OR r.tenant <> '' AND string_to_array(r.tenant, ', ') <@ $5)$q$,
    p_from, p_to)
    USING p_servers, p_sessions, p_lines, audit.sees_all(), audit.my_tenants(), f->>'class', f->>'command',
          '%' || replace(replace(replace(f->>'text', '\', '\\'), '%', '\%'), '_', '\_') || '%';
END $$;
REVOKE ALL ON FUNCTION audit.statements_at(jsonb, text[], text[], bigint[], timestamptz, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.statements_at(jsonb, text[], text[], bigint[], timestamptz, timestamptz)
  TO audit_read, audit_tenant;

-- As before; the approver goes with the person. `p_approver_only`: nothing else goes, since the statement is somebody else's.
DROP FUNCTION audit.erase(text, tid[], text, jsonb);
CREATE OR REPLACE FUNCTION audit.erase(p_table text, p_places tid[], p_person text, p_why jsonb, p_approver_only boolean DEFAULT false) RETURNS bigint
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
      content := 'detail = r.detail - ''{person,role,text,by,message,why,terms}''::text[] || ''{"redacted": true}''';
    ELSE
      part := '''record '' || to_char(r.at AT TIME ZONE ''UTC'', ''YYYY-MM-DD'') || '' '' || r.keep';
      columns := 'person, approver, ground, role, address, application, object_name, statement, message';
      content := 'person = coalesce(audit.without(r.person, $2), ''''), ground = '''','
                 ' approver = coalesce(audit.without(r.approver, $2), ''''),'
                 ' role = CASE WHEN audit.is_ours(r.role) THEN r.role END,'
                 ' address = NULL, application = NULL, object_name = NULL,'
                 -- Empty, where there was a text: that there was a statement, or an error, is no secret.
                 ' statement = left(r.statement, 0), message = left(r.message, 0)';
      -- What an approver let somebody else do is that person's.
      IF p_approver_only THEN
        columns := 'approver';
        content := 'approver = audit.without(r.approver, $2)';
      END IF;
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
REVOKE ALL ON FUNCTION audit.erase(text, tid[], text, jsonb, boolean) FROM PUBLIC;

-- As before, and who approved: in records, and in the events of approvals, with what they wrote.
CREATE OR REPLACE FUNCTION audit.redact_person(p_name text, p_reason text, p_really boolean) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  why jsonb;
  sessions text[];
  leaf record;
  places tid[];
  approved tid[];
  records bigint := 0;
  quarantined bigint;
  events bigint;
  waiting bigint;
BEGIN
  IF p_name IS NULL OR btrim(p_name) = '' THEN RAISE EXCEPTION 'the person must be named'; END IF;
  why := audit.why('person', p_reason, p_name);
  -- This locks all partitions against retention too.
  SELECT coalesce(array_agg(DISTINCT server || E'\n' || session_id), '{}') INTO sessions
    FROM audit.record WHERE NOT ground ^@ 'key:' AND (audit.names(person, p_name) OR role = p_name AND NOT audit.is_ours(role));
  FOR leaf IN SELECT name FROM audit.leaves() LOOP
    EXECUTE format('SELECT coalesce(array_agg(ctid), ''{}'') FROM audit.%I WHERE redaction IS NULL AND (audit.names(person, $1)'
                   ' OR role = $1 AND NOT audit.is_ours(role) OR person = '''' AND server || E''\n'' || session_id IN (SELECT unnest($2)))', leaf.name)
      INTO places USING p_name, sessions;
    records := records + CASE WHEN p_really THEN audit.erase(leaf.name, places, p_name, why) ELSE cardinality(places) END;
    EXECUTE format('SELECT coalesce(array_agg(ctid), ''{}'') FROM audit.%I WHERE redaction IS NULL AND approver <> '''''
                   ' AND audit.names(approver, $1) AND NOT ctid = ANY ($2)', leaf.name)
      INTO approved USING p_name, places;
    records := records + CASE WHEN p_really THEN audit.erase(leaf.name, approved, p_name, why, true)
                              ELSE cardinality(approved) END;
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
   WHERE redaction IS NULL
     AND (kind = 'read' AND p_name IN (detail->>'person', detail->>'role')
          OR kind = 'approval' AND (detail->>'by' = p_name OR p_name = ANY (string_to_array(detail->>'by', ','))));
  events := CASE WHEN p_really THEN audit.erase('event', places, NULL, why) ELSE cardinality(places) END;
  RETURN jsonb_build_object('request', why->'request', 'records', records, 'quarantine', quarantined, 'events', events,
                            'waiting', waiting);
END $$;
