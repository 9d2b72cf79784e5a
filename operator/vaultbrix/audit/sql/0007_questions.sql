-- Questions. Row security alone would not do for a tenant's auditor: EXPLAIN ANALYZE counts the rows that a policy
-- hides, and estimates show what the statistics hold. So an auditor of tenants has these functions and no table.
REVOKE SELECT ON audit.record, audit.hole FROM audit_tenant;

CREATE FUNCTION audit.sees_all() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT has_table_privilege(session_user, 'audit.record', 'SELECT')
$$;

-- The values of record.tenant that the login may see and that occur on those days (UTC).
CREATE FUNCTION audit.tenants(p_from timestamptz, p_to timestamptz) RETURNS SETOF text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off AS $$
DECLARE
  first_day timestamptz := date_trunc('day', p_from, 'UTC');
  next_day timestamptz := date_trunc('day', p_to - interval '1 microsecond', 'UTC') + interval '1 day';
BEGIN
  -- From one value to the next by index, whatever the number of records.
  RETURN QUERY EXECUTE format($q$
    WITH RECURSIVE found(tenant) AS (
      (SELECT tenant FROM audit.record WHERE at >= %1$L AND at < %2$L AND %5$s ORDER BY tenant LIMIT 1)
      UNION ALL
      SELECT (SELECT r.tenant FROM audit.record r WHERE r.tenant > f.tenant AND r.at >= %1$L AND r.at < %2$L AND %5$s
               ORDER BY r.tenant LIMIT 1)
        FROM found f WHERE f.tenant IS NOT NULL)
    SELECT tenant FROM found
     WHERE tenant IS NOT NULL AND (%3$L OR tenant <> '' AND string_to_array(tenant, ', ') <@ %4$L::text[])
    $q$, first_day, next_day, audit.sees_all(), audit.my_tenants(),
    '(kind IN (''statement'', ''error'') OR kind = ''duration'' AND tag IN (''COMMIT'', ''ROLLBACK''))');
END $$;

-- Log lines that a question is about, from `p_after` (at, session, line) on, newest first or oldest first. A statement
-- has more lines than one: audit.statement_lines leads from these to those that stand for statements.
-- p_filter: tenants (values of record.tenant), person, ground, address, role, everybody, object, class, command, text,
-- outcome; batches {server: batch}: only what was stored after them.
CREATE FUNCTION audit.hits(p_filter jsonb, p_from timestamptz, p_to timestamptz, p_newest boolean, p_after jsonb,
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

-- From lines to those that stand for statements: of a statement's line the first one of the same number, of an error
-- each that may have ended with it. `hit` is the place in the arrays, from 1.
CREATE FUNCTION audit.statement_lines(p_servers text[], p_sessions text[], p_lines bigint[], p_from timestamptz,
                                      p_to timestamptz)
RETURNS TABLE(hit int, line_num bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
  RETURN QUERY EXECUTE format($q$
    WITH RECURSIVE hit AS (
      SELECT h.n::int, h.server, h.session_id, r.kind,
             CASE WHEN r.kind = 'statement' THEN r.line_num ELSE r.line_num - 1 END AS upto,
             -- A deferred constraint may speak up after the duration of its statement.
             CASE WHEN r.kind = 'error' THEN coalesce((
               SELECT e.line_num FROM audit.record e
                WHERE e.server = h.server AND e.session_id = h.session_id AND e.line_num < h.line_num
                  AND e.kind IN ('duration', 'error') AND e.at >= %1$L AND e.at < %2$L
                ORDER BY e.line_num DESC OFFSET 1 LIMIT 1), 0) END AS bottom
        FROM unnest($1, $2, $3) WITH ORDINALITY h(server, session_id, line_num, n)
        JOIN LATERAL (
          SELECT x.kind, x.line_num FROM audit.record x
           WHERE x.server = h.server AND x.session_id = h.session_id AND x.line_num = h.line_num
             AND x.kind IN ('statement', 'error') AND x.at >= %1$L AND x.at < %2$L
             AND ($4 OR x.tenant <> '' AND string_to_array(x.tenant, ', ') <@ $5) LIMIT 1) r ON true),
    run AS (
      SELECT h.n, h.server, h.session_id, h.bottom, s.line_num
        FROM hit h CROSS JOIN LATERAL audit.run_start(h.server, h.session_id, h.upto, h.bottom, %1$L, %2$L) s(line_num)
      UNION ALL
      SELECT r.n, r.server, r.session_id, r.bottom, s.line_num
        FROM run r
        CROSS JOIN LATERAL audit.run_start(r.server, r.session_id, r.line_num - 1, r.bottom, %1$L, %2$L) s(line_num)
       WHERE r.bottom IS NOT NULL)
    SELECT n, line_num FROM run$q$, p_from, p_to)
    USING p_servers, p_sessions, p_lines, audit.sees_all(), audit.my_tenants();
END $$;

-- The first line of the statement that the last line up to `p_upto` belongs to; none where that is not above `p_bottom`.
CREATE FUNCTION audit.run_start(p_server text, p_session text, p_upto bigint, p_bottom bigint, p_from timestamptz,
                                p_to timestamptz)
RETURNS TABLE(line_num bigint) LANGUAGE sql STABLE AS $$
  SELECT start.line_num
    FROM (SELECT r.line_num, r.statement_id FROM audit.record r
           WHERE r.server = p_server AND r.session_id = p_session AND r.kind = 'statement' AND r.line_num <= p_upto
             AND r.line_num > coalesce(p_bottom, 0) AND r.at >= p_from AND r.at < p_to
           ORDER BY r.line_num DESC LIMIT 1) last
   CROSS JOIN LATERAL (
     SELECT r.line_num FROM audit.record r
      WHERE r.server = p_server AND r.session_id = p_session AND r.kind = 'statement' AND r.at >= p_from AND r.at < p_to
        AND r.line_num > coalesce((
          SELECT n.line_num FROM audit.record n
           WHERE n.server = p_server AND n.session_id = p_session AND n.kind = 'statement' AND n.line_num < last.line_num
             AND n.statement_id <> last.statement_id AND n.at >= p_from AND n.at < p_to
           ORDER BY n.line_num DESC LIMIT 1), 0)
      ORDER BY r.line_num LIMIT 1) start
$$;

-- Statements by their lines, those of the class, command and text, and that the login may see. `objects`: all that it touched, 100 at most.
CREATE FUNCTION audit.statements_at(p_filter jsonb, p_servers text[], p_sessions text[], p_lines bigint[],
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
       AND ($6 IS NULL OR s.class = $6) AND ($7 IS NULL OR s.command = $7) AND ($8 IS NULL OR s.statement ILIKE $8)$q$,
    p_from, p_to)
    USING p_servers, p_sessions, p_lines, audit.sees_all(), audit.my_tenants(), f->>'class', f->>'command',
          '%' || replace(replace(replace(f->>'text', '\', '\\'), '%', '\%'), '_', '\_') || '%';
END $$;

-- The last batch of each server, so that a reader can ask for what came after it.
CREATE FUNCTION audit.heads() RETURNS TABLE(server text, batch bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT server, batch FROM audit.checkpoint
$$;

-- Statements by tenant and class, as pgAudit numbered them; class '' is of any. A statement counts once in each class of
-- what it did and ran. And errors by what they mean, of statements that started and of those that never did.
CREATE FUNCTION audit.counts(p_from timestamptz, p_to timestamptz)
RETURNS TABLE(tenant text, class text, outcome text, many bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE seen text := CASE WHEN audit.sees_all() THEN 'true'
                          ELSE format('tenant = ANY(%L::text[])', ARRAY(SELECT audit.tenants(p_from, p_to))) END;
BEGIN
  RETURN QUERY EXECUTE format($q$
    WITH numbered AS MATERIALIZED (
      SELECT r.tenant, array_agg(DISTINCT r.class) AS classes FROM audit.record r
       WHERE r.kind = 'statement' AND r.command <> '???' AND r.at >= %1$L AND r.at < %2$L AND %3$s
       GROUP BY r.server, r.session_id, r.statement_id, r.tenant)
    SELECT n.tenant, '', 'started', count(*) FROM numbered n GROUP BY n.tenant
    UNION ALL
    SELECT n.tenant, c.name, 'started', count(*) FROM numbered n CROSS JOIN unnest(n.classes) c(name)
     GROUP BY n.tenant, c.name
    UNION ALL
    SELECT tenant, '', audit.failure(sqlstate), count(*) FROM audit.record
     WHERE kind = 'error' AND at >= %1$L AND at < %2$L AND %3$s GROUP BY tenant, audit.failure(sqlstate)
    $q$, p_from, p_to, seen);
END $$;

REVOKE ALL ON FUNCTION audit.sees_all(), audit.tenants(timestamptz, timestamptz),
  audit.hits(jsonb, timestamptz, timestamptz, boolean, jsonb, int),
  audit.statement_lines(text[], text[], bigint[], timestamptz, timestamptz),
  audit.statements_at(jsonb, text[], text[], bigint[], timestamptz, timestamptz),
  audit.heads(), audit.counts(timestamptz, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.sees_all(), audit.tenants(timestamptz, timestamptz),
  audit.hits(jsonb, timestamptz, timestamptz, boolean, jsonb, int),
  audit.statement_lines(text[], text[], bigint[], timestamptz, timestamptz),
  audit.statements_at(jsonb, text[], text[], bigint[], timestamptz, timestamptz),
  audit.heads(), audit.counts(timestamptz, timestamptz) TO audit_read, audit_tenant;
