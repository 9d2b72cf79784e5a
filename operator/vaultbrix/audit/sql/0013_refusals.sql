-- Questions about requests of the data API that were let in nowhere: records of kind `refusal`.
CREATE INDEX record_refusal_tenant ON audit.record(tenant, at) WHERE kind = 'refusal';
CREATE INDEX record_refusal_ground ON audit.record(ground, at) WHERE kind = 'refusal';
CREATE INDEX record_refusal_request ON audit.record(object_name) WHERE kind = 'refusal';

-- What is counted of a key that has ended.
CREATE INDEX record_request_ground ON audit.record(ground, at) WHERE kind = 'request';

-- What the gateway has told of a request, of kind `request` or `refusal`; NULL where that was erased.
CREATE FUNCTION audit.told(p_message text) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN p_message ^@ 'REQUEST: {' OR p_message ^@ 'REFUSED: {' THEN substr(p_message, 10)::jsonb END
$$;
-- What was asked for, in one line; or how many requests, where their number is all that was told.
CREATE FUNCTION audit.refused_text(p_message text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT coalesce((said->>'method') || ' ' || (said->>'host') || (said->>'path'), (said->>'count') || ' requests')
    FROM (SELECT audit.told(p_message)) told(said)
$$;

-- The values of record.tenant that the login may see and that occur on those days (UTC).
CREATE OR REPLACE FUNCTION audit.tenants(p_from timestamptz, p_to timestamptz) RETURNS SETOF text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off AS $$
DECLARE
  first_day timestamptz := date_trunc('day', p_from, 'UTC');
  next_day timestamptz := date_trunc('day', p_to - interval '1 microsecond', 'UTC') + interval '1 day';
  arms text := '';
  lines text;
BEGIN
  -- From one value to the next by index, whatever the number of records.
  FOREACH lines IN ARRAY ARRAY[
    '(kind IN (''statement'', ''error'') OR kind = ''duration'' AND tag IN (''COMMIT'', ''ROLLBACK''))',
    'kind = ''refusal'''] LOOP
    arms := arms || CASE WHEN arms = '' THEN '' ELSE ' UNION ' END || format($q$
      (WITH RECURSIVE found(tenant) AS (
        (SELECT tenant FROM audit.record WHERE at >= %1$L AND at < %2$L AND %3$s ORDER BY tenant LIMIT 1)
        UNION ALL
        SELECT (SELECT r.tenant FROM audit.record r WHERE r.tenant > f.tenant AND r.at >= %1$L AND r.at < %2$L AND %3$s
                 ORDER BY r.tenant LIMIT 1)
          FROM found f WHERE f.tenant IS NOT NULL)
      SELECT tenant FROM found)$q$, first_day, next_day, lines);
  END LOOP;
  RETURN QUERY EXECUTE format(
    'SELECT tenant FROM (%s) known WHERE tenant IS NOT NULL AND ($1 OR tenant <> '''' AND string_to_array(tenant, '', '') <@ $2)'
    ' ORDER BY tenant', arms) USING audit.sees_all(), audit.my_tenants();
END $$;

-- Log lines that a question is about, from `p_after` (at, session, line) on, newest first or oldest first. A statement
-- has more lines than one: audit.statement_lines leads from these to those that stand for statements.
-- p_filter: kinds (of `statement` and `refusal`; without it, statements), tenants (values of record.tenant), person, ground,
-- key, request, address, role, everybody, object, class, command, text, outcome; batches {server: batch}: only what was
-- stored after them.
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

-- Statements by their lines, those of the class, command and text, and that the login may see. `objects`: all that it
-- touched, 100 at most. Of a refused request `statement` is what was asked for, `message` why not, `object_name` its id.
CREATE OR REPLACE FUNCTION audit.statements_at(p_filter jsonb, p_servers text[], p_sessions text[], p_lines bigint[],
                                    p_from timestamptz, p_to timestamptz)
RETURNS TABLE(server text, at timestamptz, session_id text, line_num bigint, pid int, role text, tenant text, person text,
              ground text, database text, address inet, application text, class text, command text, object_type text,
              object_name text, statement text, duration_ms double precision, outcome text, sqlstate text, message text,
              row_count bigint, objects text[])
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE f jsonb := jsonb_strip_nulls(p_filter);
BEGIN
  RETURN QUERY EXECUTE format($q$
    SELECT s.*, touched.objects
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
     WHERE ($4 OR s.tenant <> '' AND string_to_array(s.tenant, ', ') <@ $5)
       AND ($6 IS NULL OR s.class = $6) AND ($7 IS NULL OR s.command = $7) AND ($8 IS NULL OR s.statement ILIKE $8)
     UNION ALL
    SELECT r.server, r.at, r.session_id, r.line_num, r.pid, NULL, r.tenant, r.person, r.ground, r.database, r.address,
           r.application, NULL, audit.told(r.message)->>'method', NULL, r.object_name, audit.refused_text(r.message),
           NULL, 'refused', NULL, audit.told(r.message)->>'why', NULL, NULL
      FROM (SELECT DISTINCT * FROM unnest($1, $2, $3)) l(server, session_id, line_num)
      JOIN audit.record r USING (server, session_id, line_num)
     WHERE r.kind = 'refusal' AND r.at >= %1$L AND r.at < %2$L
       AND ($4 OR r.tenant <> '' AND string_to_array(r.tenant, ', ') <@ $5)$q$,
    p_from, p_to)
    USING p_servers, p_sessions, p_lines, audit.sees_all(), audit.my_tenants(), f->>'class', f->>'command',
          '%' || replace(replace(replace(f->>'text', '\', '\\'), '%', '\%'), '_', '\_') || '%';
END $$;
