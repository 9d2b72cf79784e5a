-- The data API: what policies ask about the caller, what is noted of each request, and when schemas change.
DO $$
BEGIN
  -- The group by which pg_hba.conf knows the logins of tenants' PostgREST.
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'vaultbrix_rest') THEN CREATE ROLE vaultbrix_rest NOLOGIN; END IF;
END $$;

SET ROLE vaultbrix_gate;

-- Roles of the data API, and whose they are, so that nobody else's is ever changed or dropped.
CREATE TABLE vaultbrix.api_role(
  role_name name PRIMARY KEY, tenant_role name NOT NULL, namespace text NOT NULL, name text NOT NULL,
  claimed_at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE INDEX ON vaultbrix.api_role(namespace, name);

-- The Tenant whose PostgREST has logged in: the login is all that no tenant can set.
CREATE FUNCTION vaultbrix.api_tenant() RETURNS text LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET pgaudit.log = 'none' AS $$
  SELECT namespace || '/' || name FROM vaultbrix.api_role WHERE role_name = session_user
$$;
GRANT EXECUTE ON FUNCTION vaultbrix.api_tenant() TO PUBLIC;

-- PostgREST calls it first in each request's transaction. Its line stands in the log before the request's statements,
-- in the same virtual transaction, and is known as genuine by its context: this function's frame and no other.
CREATE FUNCTION vaultbrix.pre_request() RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE claims text := coalesce(nullif(current_setting('request.jwt.claims', true), ''), '{}');
BEGIN
  -- PostgREST looks at the token's end once, and repeats for ever what fails with a serialization error.
  IF (claims::jsonb ->> 'exp')::numeric + 10 < extract(epoch FROM clock_timestamp()) THEN
    RAISE EXCEPTION 'the request has taken too long' USING ERRCODE = 'PT503';
  END IF;
  RAISE LOG 'REQUEST: %', (claims::jsonb -> 'vaultbrix') || jsonb_build_object(
    'tenant', vaultbrix.api_tenant(), 'claims', encode(sha256(convert_to(claims, 'UTF8')), 'hex'));
END $$;
GRANT EXECUTE ON FUNCTION vaultbrix.pre_request() TO PUBLIC;

-- A gateway's requests that were let in nowhere, each an object: they go into the log, and so into the record.
CREATE FUNCTION vaultbrix.note_refusals(p_refusals jsonb) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE refusal jsonb;
BEGIN
  FOR refusal IN SELECT value FROM jsonb_array_elements(p_refusals) LOOP
    RAISE LOG 'REFUSED: %', refusal;
  END LOOP;
END $$;

-- Whoever runs a tenant's PostgREST listens, and has it read the schema again. A tenant can send such a notice itself;
-- whoever listens must bound what that costs.
CREATE FUNCTION vaultbrix.notify_ddl() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET pgaudit.log = 'none' AS $$
DECLARE changed name;
BEGIN
  FOR changed IN
    SELECT DISTINCT coalesce(c.schema_name, CASE WHEN c.object_type = 'schema' THEN c.object_identity END)
      FROM pg_event_trigger_ddl_commands() c
      JOIN vaultbrix.api_role a
        ON a.tenant_role = coalesce(c.schema_name, CASE WHEN c.object_type = 'schema' THEN c.object_identity END)
  LOOP
    PERFORM pg_notify('vaultbrix_ddl', changed);
  END LOOP;
  -- GRANT and REVOKE name no schema, and decide what the description of the API shows. The gate's own, at each table that
  -- is made, are not meant.
  IF tg_tag IN ('GRANT', 'REVOKE') AND current_query() ~* '(GRANT|REVOKE)' THEN
    SELECT DISTINCT a.tenant_role INTO changed FROM vaultbrix.api_role a
     WHERE a.tenant_role = coalesce(nullif(current_setting('role'), 'none'), session_user);
    IF FOUND THEN PERFORM pg_notify('vaultbrix_ddl', changed); END IF;
  END IF;
END $$;
CREATE FUNCTION vaultbrix.notify_drop() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET pgaudit.log = 'none' AS $$
DECLARE changed name;
BEGIN
  FOR changed IN SELECT DISTINCT d.schema_name FROM pg_event_trigger_dropped_objects() d
                   JOIN vaultbrix.api_role a ON a.tenant_role = d.schema_name LOOP
    PERFORM pg_notify('vaultbrix_ddl', changed);
  END LOOP;
END $$;
RESET ROLE;

DO $$
DECLARE t record;
BEGIN
  FOR t IN SELECT * FROM (VALUES ('vaultbrix_notify_ddl', 'ddl_command_end', 'notify_ddl'),
                                 ('vaultbrix_notify_drop', 'sql_drop', 'notify_drop')) v(name, event, function) LOOP
    EXECUTE format('CREATE EVENT TRIGGER %I ON %s EXECUTE FUNCTION vaultbrix.%I()', t.name, t.event, t.function);
    EXECUTE format('ALTER EVENT TRIGGER %I OWNER TO vaultbrix_gate', t.name);
  END LOOP;
END $$;

-- Tenants' policies depend on these, so they outlast the rest, and belong to the admin.
CREATE SCHEMA IF NOT EXISTS auth;
-- What the gateway has verified of the caller; empty outside of the data API. PostgREST writes the role that it takes over
-- the claim role, so the gateway's own word for it is in another one.
CREATE OR REPLACE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN claims OPERATOR(pg_catalog.?) 'vaultbrix_role'::text
              THEN (claims OPERATOR(pg_catalog.-) '{vaultbrix,vaultbrix_role}'::text[])
                   OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object(
                     'role', claims OPERATOR(pg_catalog.->) 'vaultbrix_role'::text)
              ELSE claims OPERATOR(pg_catalog.-) 'vaultbrix'::text END
    FROM (SELECT coalesce(nullif(pg_catalog.current_setting('request.jwt.claims', true), ''), '{}')::pg_catalog.jsonb
         ) said(claims)
$$;
-- anon, authenticated, or service_role for a Secret key.
CREATE OR REPLACE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT auth.jwt() OPERATOR(pg_catalog.->>) 'role'::text
$$;
-- NULL, and so nobody in a policy, where the issuer's users have names of another form.
CREATE OR REPLACE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN (auth.jwt() OPERATOR(pg_catalog.->>) 'sub'::text) OPERATOR(pg_catalog.~)
                   '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$'::text
              THEN (auth.jwt() OPERATOR(pg_catalog.->>) 'sub'::text)::pg_catalog.uuid END
$$;
GRANT USAGE ON SCHEMA auth TO PUBLIC;
