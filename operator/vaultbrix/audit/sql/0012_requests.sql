-- Requests of the data API. A record of kind `request` says whose what follows in its session is: `ground` is `key:` and
-- namespace/name of the APIKey, `person` `user:` and the user's subject, `object_name` the request's id.
ALTER TABLE audit.record DROP CONSTRAINT record_kind_check,
  ADD CONSTRAINT record_kind_check CHECK (kind IN ('statement','duration','error','connection','authentication',
                                                   'disconnection','gate','request','refusal','forged','other'));
-- A record of kind `refusal` is a request that the data API let in nowhere: `message` says why and from where, `object_name`
-- has its id, `tenant` and `ground` are those of its key where that is known.
CREATE INDEX record_request ON audit.record(object_name) WHERE kind = 'request';
CREATE INDEX record_refusal ON audit.record(at) WHERE kind = 'refusal';

-- The shipper may not read records. What one of PostgREST's sessions was at before a line: its last line that is stored;
-- its last transaction; the request that it served, if there is one; whether all lines since either began are there.
CREATE FUNCTION audit.last_request(p_server text, p_session text, p_line bigint)
RETURNS TABLE(line_num bigint, vxid text, whole boolean, of_request boolean, role text, tenant text, person text,
              ground text, address text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  began timestamptz;
  begun record;   -- the request, or else the last line before the transaction
BEGIN
  IF p_session !~ '^[0-9a-f]{1,12}\.[0-9a-f]{1,8}$' THEN RETURN; END IF;
  -- A session's id begins with its start, so that only partitions from then on are looked at.
  began := to_timestamp(('x' || lpad(split_part(p_session, '.', 1), 16, '0'))::bit(64)::bigint) - interval '1 day';
  SELECT r.line_num INTO line_num FROM audit.record r
   WHERE r.server = p_server AND r.session_id = p_session AND r.line_num < p_line AND r.at >= began
   ORDER BY r.line_num DESC LIMIT 1;
  IF NOT FOUND THEN RETURN; END IF;
  SELECT r.vxid INTO vxid FROM audit.record r
   WHERE r.server = p_server AND r.session_id = p_session AND r.line_num <= last_request.line_num AND r.at >= began
     AND r.vxid NOT LIKE '%/0'
   ORDER BY r.line_num DESC LIMIT 1;
  vxid := coalesce(vxid, '');
  SELECT r.* INTO begun FROM audit.record r
   WHERE r.server = p_server AND r.session_id = p_session AND r.line_num <= last_request.line_num AND r.at >= began
     AND (r.kind = 'request' AND r.vxid = last_request.vxid OR r.vxid NOT LIKE '%/0' AND r.vxid <> last_request.vxid)
   ORDER BY r.line_num DESC LIMIT 1;
  of_request := FOUND AND begun.kind = 'request' AND begun.vxid = vxid;
  whole := line_num - coalesce(begun.line_num, 0) = (
    SELECT count(*) FROM audit.record r
     WHERE r.server = p_server AND r.session_id = p_session AND r.line_num > coalesce(begun.line_num, 0)
       AND r.line_num <= last_request.line_num AND r.at >= began);
  IF of_request THEN
    role := begun.role;
    tenant := begun.tenant;
    person := begun.person;
    ground := begun.ground;
    address := host(begun.address);
  END IF;
  RETURN NEXT;
END $$;
REVOKE ALL ON FUNCTION audit.last_request(text, text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.last_request(text, text, bigint) TO audit_append;

-- Log lines that a question is about, from `p_after` (at, session, line) on, newest first or oldest first. A statement
-- has more lines than one: audit.statement_lines leads from these to those that stand for statements.
-- p_filter: tenants (values of record.tenant), person, ground, key, request, address, role, everybody, object, class,
-- command, text, outcome; batches {server: batch}: only what was stored after them.
CREATE OR REPLACE FUNCTION audit.hits(p_filter jsonb, p_from timestamptz, p_to timestamptz, p_newest boolean, p_after jsonb,
                           p_most int)
RETURNS TABLE(server text, at timestamptz, session_id text, line_num bigint, kind text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
  f jsonb := jsonb_strip_nulls(p_filter);
  everywhere text[] := '{}';       -- conditions of every arm
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
BEGIN
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
    everywhere := everywhere || CASE WHEN requests = '{}' THEN 'false'
                                     ELSE '((' || array_to_string(requests, ') OR (') || '))' END;
  END IF;
  IF f ? 'role' THEN everywhere := everywhere || format('role = %L', f->>'role'); END IF;
  IF NOT coalesce((f->>'everybody')::boolean, false) THEN
    everywhere := everywhere || '(role ^@ ''tenant_'' OR role ^@ ''vaultbrix_d_'')'::text;
  END IF;

  IF f ? 'object' THEN
    drivers := ARRAY[format('kind = ''statement'' AND object_name IS NOT NULL AND audit.bare_name(object_name) = %L',
                            audit.bare_name(f->>'object'))];
    IF f->>'object' LIKE '%.%' THEN everywhere := everywhere || format('object_name = %L', f->>'object'); END IF;
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
      everywhere := everywhere || format(
        'coalesce(statement, tag) ILIKE %L',
        '%' || replace(replace(replace(f->>'text', '\', '\\'), '%', '\%'), '_', '\_') || '%');
    END IF;
  END IF;

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

-- Erase all that names a person: records, also those of a role of that name that is none of the product's; those that
-- name nobody in the same sessions, such as a connection's first lines; quarantined lines of these sessions or with the
-- name in them; and who asked for the person's statements.
-- A session of the data API serves many people: there only what names this one.
-- Returns how many of each, and how many `waiting` for their seal were left. Without `p_really`, only counts.
CREATE OR REPLACE FUNCTION audit.redact_person(p_name text, p_reason text, p_really boolean) RETURNS jsonb
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
    FROM audit.record WHERE NOT ground ^@ 'key:' AND (audit.names(person, p_name) OR role = p_name AND NOT audit.is_ours(role));
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
