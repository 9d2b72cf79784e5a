-- What is in the archive, so that retention can wait for it.
DO $$
BEGIN
  -- audit_export: reads everything and says what it has exported.
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'audit_export') THEN CREATE ROLE audit_export NOLOGIN; END IF;
END $$;
GRANT audit_read TO audit_export;

-- Records of the day, to be kept so many days, that `server` sent in batches up to `upto`.
CREATE TABLE audit.export(
  day date NOT NULL, keep int NOT NULL,
  server text NOT NULL DEFAULT '',        -- '': records from before they were sealed
  upto bigint NOT NULL DEFAULT 0,
  manifest_sha256 bytea NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (day, keep, manifest_sha256, server));

-- A day's batches are found by when they were sealed; they are stored in about that order.
CREATE INDEX ON audit.batch USING brin(sealed_at);

-- Note a set of files whose manifest is written. Noting it again changes nothing.
CREATE FUNCTION audit.exported(p_day date, p_keeps int[], p_upto jsonb, p_manifest bytea, p_detail jsonb) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF octet_length(p_manifest) IS DISTINCT FROM 32 THEN RAISE EXCEPTION 'the manifest''s hash has 32 bytes'; END IF;
  IF octet_length(p_detail::text) > 65536 THEN RAISE EXCEPTION 'detail is longer than 64 KiB'; END IF;
  PERFORM pg_advisory_xact_lock(hashtextextended('audit exported', 0));
  IF EXISTS (SELECT FROM audit.event
              WHERE kind = 'exported' AND detail->>'manifest_sha256' = encode(p_manifest, 'hex')) THEN RETURN false; END IF;
  INSERT INTO audit.export(day, keep, server, upto, manifest_sha256)
  SELECT p_day, keep, server, upto::bigint, p_manifest
    FROM unnest(p_keeps) keep, (SELECT '' AS server, '0' AS upto UNION ALL SELECT * FROM jsonb_each_text(p_upto)) spans;
  INSERT INTO audit.event(kind, actor, detail)
  VALUES ('exported', session_user, p_detail || jsonb_build_object('manifest_sha256', encode(p_manifest, 'hex')));
  RETURN true;
END $$;
REVOKE ALL ON FUNCTION audit.exported(date, int[], jsonb, bytea, jsonb) FROM PUBLIC;

-- Whether all that is in a partition is in the archive too: what came late may not be yet.
CREATE FUNCTION audit.archived(p_day date, p_keep int) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (SELECT FROM audit.export WHERE day = p_day AND keep = p_keep)
     AND NOT EXISTS (
       SELECT FROM audit.part p
        WHERE p.part = format('record %s %s', to_char(p_day, 'YYYY-MM-DD'), p_keep)
          AND p.batch > coalesce((SELECT max(e.upto) FROM audit.export e
                                   WHERE e.day = p_day AND e.keep = p_keep AND e.server = p.server), 0))
$$;
REVOKE ALL ON FUNCTION audit.archived(date, int) FROM PUBLIC;

GRANT USAGE ON SCHEMA audit TO audit_export;
GRANT EXECUTE ON FUNCTION audit.exported(date, int[], jsonb, bytea, jsonb) TO audit_export;
GRANT EXECUTE ON FUNCTION audit.archived(date, int) TO audit_read, audit_manage;
GRANT SELECT ON audit.export TO audit_read, audit_manage;
GRANT SELECT ON audit.part TO audit_manage;
