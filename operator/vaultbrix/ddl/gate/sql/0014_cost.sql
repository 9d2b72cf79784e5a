-- What the gate adds to a command is small: what it asks at every one is planned once a session.
SET ROLE vaultbrix_gate;

-- As before, in a language that keeps plans: PostgreSQL plans a function in SQL anew in every statement that calls it.
CREATE OR REPLACE FUNCTION vaultbrix.is_exempt(r name) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN EXISTS (SELECT FROM pg_authid WHERE rolname = r AND rolsuper)
      OR EXISTS (SELECT FROM vaultbrix.exempt_role WHERE role_name = r);
END $$;

CREATE OR REPLACE FUNCTION vaultbrix.norm(q text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN btrim(replace(q, chr(13)||chr(10), chr(10)), ' ;'||chr(9)||chr(10)||chr(13)||chr(12));
END $$;

-- Whether a row may be new.
CREATE OR REPLACE FUNCTION vaultbrix.may_appear(p_kind text, p_row jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN CASE p_kind
    WHEN 'column' THEN p_row->>'attidentity' = '' AND p_row->>'attgenerated' <> 's' AND p_row->>'attisdropped' = 'false'
    WHEN 'expression' THEN true
    -- An index, or the place for long values.
    WHEN 'class' THEN p_row->>'relkind' IN ('i', 'I', 't')
    WHEN 'index' THEN NOT (p_row->>'indisclustered')::boolean AND NOT (p_row->>'indisreplident')::boolean
    -- Rows that would go or change along with those they refer to are no mere addition.
    WHEN 'constraint' THEN p_row->>'contype' IN ('c', 'u', 'p', 'x', 'n') OR (p_row->>'contype' = 'f' AND p_row->>'confdeltype' IN ('a', 'r')
                                                                           AND p_row->>'confupdtype' IN ('a', 'r', 'c'))
    WHEN 'trigger' THEN (p_row->>'tgisinternal')::boolean
    WHEN 'label' THEN true
    ELSE false END;
END $$;

-- Whether a row may have become the other.
CREATE OR REPLACE FUNCTION vaultbrix.may_become(p_kind text, p_old jsonb, p_new jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE names text[] := CASE p_kind
    WHEN 'class' THEN ARRAY['relnatts', 'relchecks', 'relhasindex', 'relhastriggers', 'reltoastrelid', 'relpages', 'reltuples',
                            'relallvisible', 'relallfrozen', 'relfrozenxid', 'relminmxid']
    WHEN 'column' THEN ARRAY['attnotnull', 'atthasdef']
    WHEN 'constraint' THEN ARRAY['convalidated']
    WHEN 'index' THEN ARRAY['indisprimary']
    WHEN 'label' THEN ARRAY['enumsortorder'] END;
BEGIN
  RETURN CASE p_kind
    WHEN 'class' THEN p_old - names = p_new - names AND p_old->>'reltoastrelid' IN ('0', p_new->>'reltoastrelid')
    WHEN 'column' THEN p_old - names = p_new - names AND NOT ((p_old->>'attnotnull')::boolean AND NOT (p_new->>'attnotnull')::boolean)
    WHEN 'constraint' THEN p_old - names = p_new - names AND (p_new->>'convalidated')::boolean
    WHEN 'index' THEN p_old - names = p_new - names AND (p_new->>'indisprimary')::boolean
    -- Their order is compared beside.
    WHEN 'label' THEN p_old - names = p_new - names
    ELSE false END;
END $$;

-- How many tables or rows a command is about hardly matters for how to look for them; planning does.
ALTER FUNCTION vaultbrix.ddl_start(text, name, text, name[]) SET plan_cache_mode = force_generic_plan;
ALTER FUNCTION vaultbrix.lost(name) SET plan_cache_mode = force_generic_plan;
ALTER FUNCTION vaultbrix.sql_drop(text, name, text, name[], text[]) SET plan_cache_mode = force_generic_plan;
ALTER FUNCTION vaultbrix.before(text, name) SET plan_cache_mode = force_generic_plan;
ALTER FUNCTION vaultbrix.ddl_end(text, name, text, name[], jsonb) SET plan_cache_mode = force_generic_plan;
RESET ROLE;
