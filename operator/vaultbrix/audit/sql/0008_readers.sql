-- A tenant's own auditors: logins that may ask of their tenants' records, by the functions of the questions alone.
CREATE FUNCTION audit.add_reader(p_login text, p_tenants text[], p_verifier text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE known pg_roles;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('audit reader', 0));
  IF p_login !~ '^[a-z0-9][a-z0-9_.@-]{0,62}$' OR p_login LIKE 'pg_%' THEN
    RAISE EXCEPTION 'login: % is no name of a reader', quote_literal(p_login)
      USING ERRCODE = 'invalid_parameter_value', HINT = 'use small letters, digits and _ . @ -, 63 at most';
  END IF;
  IF coalesce(cardinality(p_tenants), 0) = 0 OR EXISTS (
       SELECT FROM unnest(p_tenants) t WHERE t IS NULL OR t !~ '^[^/,[:space:][:cntrl:]]+/[^/,[:space:][:cntrl:]]+$') THEN
    RAISE EXCEPTION 'tenants: each is namespace/name of a Tenant' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  -- A password would be in the text of the statement.
  IF p_verifier !~ '^SCRAM-SHA-256\$[0-9]+:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+$' THEN
    RAISE EXCEPTION 'verifier: is none of SCRAM-SHA-256' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  SELECT * INTO known FROM pg_roles WHERE rolname = p_login;
  IF NOT FOUND THEN
    IF p_verifier IS NULL THEN
      RAISE EXCEPTION 'login % is new and has no password', p_login USING ERRCODE = 'invalid_parameter_value';
    END IF;
    EXECUTE format('CREATE ROLE %I LOGIN CONNECTION LIMIT 10', p_login);
    EXECUTE format('GRANT audit_tenant TO %I', p_login);
  ELSIF NOT EXISTS (SELECT FROM audit.reader WHERE login = p_login) OR known.rolsuper OR known.rolcreaterole
        OR known.rolbypassrls OR EXISTS (
          SELECT FROM pg_auth_members WHERE member = known.oid AND roleid <> 'audit_tenant'::regrole) THEN
    RAISE EXCEPTION 'login % exists and is not a tenant''s reader', p_login
      USING ERRCODE = 'duplicate_object', HINT = 'choose another name';
  END IF;
  IF p_verifier IS NOT NULL THEN EXECUTE format('ALTER ROLE %I LOGIN PASSWORD %L', p_login, p_verifier); END IF;
  INSERT INTO audit.reader SELECT p_login, t FROM unnest(p_tenants) t ON CONFLICT DO NOTHING;
  INSERT INTO audit.event(kind, actor, detail) VALUES ('reader', session_user, jsonb_build_object(
    'action', 'add', 'login', p_login, 'tenants', p_tenants, 'password', p_verifier IS NOT NULL));
END $$;

-- Without p_tenants, all of them. A login without any is dropped, and its sessions end.
CREATE FUNCTION audit.remove_reader(p_login text, p_tenants text[]) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('audit reader', 0));
  DELETE FROM audit.reader WHERE login = p_login AND (p_tenants IS NULL OR tenant = ANY(p_tenants));
  IF NOT FOUND THEN
    RAISE EXCEPTION 'login % is no reader of these', p_login
      USING ERRCODE = 'undefined_object', HINT = 'vaultbrix audit reader list';
  END IF;
  INSERT INTO audit.event(kind, actor, detail) VALUES ('reader', session_user, jsonb_build_object(
    'action', 'remove', 'login', p_login, 'tenants', p_tenants));
  IF EXISTS (SELECT FROM audit.reader WHERE login = p_login) THEN RETURN false; END IF;
  EXECUTE format('ALTER ROLE %I NOLOGIN', p_login);
  PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = p_login;
  BEGIN
    EXECUTE format('DROP OWNED BY %I', p_login);
    EXECUTE format('DROP ROLE %I', p_login);
  EXCEPTION WHEN dependent_objects_still_exist THEN
    -- It has something in another database: what is left can neither log in nor see anything.
    EXECUTE format('REVOKE audit_tenant FROM %I', p_login);
  END;
  RETURN true;
END $$;

REVOKE ALL ON FUNCTION audit.add_reader(text, text[], text), audit.remove_reader(text, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.add_reader(text, text[], text), audit.remove_reader(text, text[]) TO audit_manage;
GRANT SELECT ON audit.reader TO audit_manage, audit_read;
