-- Sealed records. Every row of a batch is a leaf of a Merkle tree; batches are chained and signed (vaultbrix.audit.seal).
-- A row's leaf is over its own COPY text line, so that anybody with psql and sha256sum can follow it.
DO $$
DECLARE r text;
BEGIN
  -- audit_tenant: an auditor of one tenant or more. audit_redact: may erase content. audit_manage: retention, readers.
  FOREACH r IN ARRAY ARRAY['audit_tenant', 'audit_redact', 'audit_manage'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN EXECUTE format('CREATE ROLE %I NOLOGIN', r); END IF;
  END LOOP;
END $$;

ALTER TABLE audit.record
  ADD COLUMN row_count bigint,                -- pgaudit.log_rows
  ADD COLUMN keep int NOT NULL DEFAULT 400,   -- days from `at` on; partitions are dropped whole
  ADD COLUMN batch bigint,                    -- NULL: stored before records were sealed
  ADD COLUMN leaf_index int,                  -- place in its part of the batch, from 0
  ADD COLUMN salt bytea,                      -- NULL once redacted: what is erased cannot be guessed from its leaf
  ADD COLUMN leaf bytea,
  ADD COLUMN redaction bigint;                -- the event that erased its content
CREATE INDEX ON audit.record USING brin(batch);
ALTER TABLE audit.record DROP CONSTRAINT record_kind_check,
  ADD CONSTRAINT record_kind_check CHECK (kind IN ('statement','duration','error','connection','authentication',
                                                   'disconnection','gate','forged','other'));

ALTER TABLE audit.gap ADD COLUMN batch bigint, ADD COLUMN leaf_index int, ADD COLUMN salt bytea, ADD COLUMN leaf bytea;
ALTER TABLE audit.quarantine ADD COLUMN batch bigint, ADD COLUMN leaf_index int, ADD COLUMN salt bytea, ADD COLUMN leaf bytea,
  ADD COLUMN redaction bigint;

-- A signed batch. `previous` is the hash of the header before it, zeros for a server's first.
CREATE TABLE audit.batch(
  server text NOT NULL, batch bigint NOT NULL, sealed_at timestamptz NOT NULL,
  file text NOT NULL, start bigint NOT NULL, stop bigint NOT NULL,   -- the bytes that its lines are from; '' and 0: none
  parts int NOT NULL, previous bytea NOT NULL, root bytea NOT NULL,
  signer bytea NOT NULL,              -- sha256 of the public key, raw
  signature bytea NOT NULL, PRIMARY KEY (server, batch));

-- The subtrees of a batch: one per partition (part `record <day> <keep>`), and `gap`, `quarantine`, `event`. They outlive
-- the rows, so that what retention drops leaves its root.
CREATE TABLE audit.part(
  server text NOT NULL, batch bigint NOT NULL, part text NOT NULL, leaves int NOT NULL, root bytea NOT NULL,
  PRIMARY KEY (server, batch, part));
CREATE INDEX ON audit.part(part) WHERE part ^@ 'record ';

-- What was done to the store and who read it. A shipper seals each in its next batch.
CREATE TABLE audit.event(
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  kind text NOT NULL CHECK (kind IN ('read','redacted','expired','retention','exported','reader','verified')),
  actor text NOT NULL,
  detail jsonb NOT NULL,
  server text, batch bigint, leaf_index int, salt bytea, leaf bytea);   -- NULL until sealed
CREATE INDEX ON audit.event(id) WHERE batch IS NULL;
CREATE INDEX ON audit.event(server, batch);
CREATE INDEX ON audit.event(kind, at);

-- How far each file of PostgreSQL's log is stored. Files are followed all at once: after a clock stepped back, the file
-- that is written is not the one whose name is the newest.
CREATE TABLE audit.logfile(
  server text NOT NULL, file text NOT NULL, inode bigint NOT NULL, position bigint NOT NULL,
  fingerprint bytea NOT NULL,          -- sha256 of the (up to) 256 bytes before the position
  complete boolean NOT NULL DEFAULT false,   -- read to its end, and PostgreSQL writes another one
  PRIMARY KEY (server, file));
INSERT INTO audit.logfile SELECT server, file, inode, position, fingerprint FROM audit.checkpoint WHERE file <> '';
-- Files named before `adopted` were stored before files had positions of their own.
ALTER TABLE audit.checkpoint RENAME COLUMN file TO adopted;
ALTER TABLE audit.checkpoint ALTER COLUMN adopted SET DEFAULT '', DROP COLUMN inode, DROP COLUMN position,
  DROP COLUMN fingerprint;

-- Days to keep, by tenant and class of statement; '' is any. The closest match counts: both, tenant, class, neither.
CREATE TABLE audit.retention(
  tenant text NOT NULL, class text NOT NULL, days int NOT NULL CHECK (days BETWEEN 1 AND 36500),
  PRIMARY KEY (tenant, class));
INSERT INTO audit.retention VALUES ('', '', 400);

-- Which tenants a login of audit_tenant sees.
CREATE TABLE audit.reader(login name NOT NULL, tenant text NOT NULL, PRIMARY KEY (login, tenant));

DROP FUNCTION audit.ensure_day(date);
-- Attaching takes no lock that a long query would hold up; creating a partition in place does.
CREATE FUNCTION audit.ensure_partition(p_day date, p_keep int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  day_name text := 'record_' || to_char(p_day, 'YYYYMMDD');
  name text := day_name || '_' || p_keep;
BEGIN
  -- A shipper holds its days against retention until its rows are stored: they would find no partition.
  PERFORM pg_advisory_xact_lock_shared(hashtextextended('audit retention ' || day_name, 0));
  IF to_regclass('audit.' || name) IS NOT NULL THEN RETURN; END IF;
  PERFORM pg_advisory_xact_lock(hashtextextended('audit ' || day_name, 0));
  IF to_regclass('audit.' || name) IS NOT NULL THEN RETURN; END IF;
  IF to_regclass('audit.' || day_name) IS NULL THEN
    EXECUTE format('CREATE TABLE audit.%I (LIKE audit.record INCLUDING DEFAULTS INCLUDING CONSTRAINTS)'
                   ' PARTITION BY LIST (keep)', day_name);
    EXECUTE format('ALTER TABLE audit.record ATTACH PARTITION audit.%I FOR VALUES FROM (%L) TO (%L)', day_name,
                   p_day || ' 00:00:00+00', p_day + 1 || ' 00:00:00+00');
  -- A day from before partitions were divided by what they keep holds everything.
  ELSIF (SELECT relkind FROM pg_class WHERE oid = to_regclass('audit.' || day_name)) = 'r' THEN RETURN;
  END IF;
  EXECUTE format('CREATE TABLE audit.%I (LIKE audit.record INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name);
  EXECUTE format('ALTER TABLE audit.%I ATTACH PARTITION audit.%I FOR VALUES IN (%s)', day_name, name, p_keep);
END $$;
REVOKE ALL ON FUNCTION audit.ensure_partition(date, int) FROM PUBLIC;

-- The shipper may seal an event once and may not change it.
CREATE FUNCTION audit.seal_event(p_id bigint, p_server text, p_batch bigint, p_index int, p_salt bytea, p_leaf bytea)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE audit.event SET server = p_server, batch = p_batch, leaf_index = p_index, salt = p_salt, leaf = p_leaf
   WHERE id = p_id AND batch IS NULL;
  IF NOT FOUND THEN RAISE EXCEPTION 'event % is sealed already', p_id; END IF;
END $$;
REVOKE ALL ON FUNCTION audit.seal_event(bigint, text, bigint, int, bytea, bytea) FROM PUBLIC;

-- For readers: their reading goes on record, under the login's own name.
CREATE FUNCTION audit.note(p_kind text, p_detail jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE made bigint;
BEGIN
  IF p_kind NOT IN ('read', 'verified') THEN RAISE EXCEPTION 'kind % is not for readers', p_kind; END IF;
  IF octet_length(p_detail::text) > 65536 THEN RAISE EXCEPTION 'detail is longer than 64 KiB'; END IF;
  INSERT INTO audit.event(kind, actor, detail) VALUES (p_kind, session_user, p_detail) RETURNING id INTO made;
  RETURN made;
END $$;
REVOKE ALL ON FUNCTION audit.note(text, jsonb) FROM PUBLIC;

CREATE FUNCTION audit.my_tenants() RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(array_agg(tenant), '{}') FROM audit.reader WHERE login = session_user
$$;
REVOKE ALL ON FUNCTION audit.my_tenants() FROM PUBLIC;

-- Several rules may have let in the same address: then `tenant` names them all, and all of them must be the reader's.
ALTER TABLE audit.record ENABLE ROW LEVEL SECURITY;
CREATE POLICY everything ON audit.record FOR SELECT TO audit_read USING (true);
CREATE POLICY own ON audit.record FOR SELECT TO audit_tenant
  USING (tenant <> '' AND string_to_array(tenant, ', ') <@ (SELECT audit.my_tenants()));

ALTER VIEW audit.started SET (security_invoker = true);
ALTER VIEW audit.statement SET (security_invoker = true);
ALTER VIEW audit.hole SET (security_invoker = true);

GRANT USAGE ON SCHEMA audit TO audit_tenant, audit_redact, audit_manage;
GRANT INSERT ON audit.batch, audit.part TO audit_append;
GRANT SELECT ON audit.batch, audit.event, audit.retention TO audit_append;
GRANT SELECT, INSERT, UPDATE, DELETE ON audit.logfile TO audit_append;
GRANT EXECUTE ON FUNCTION audit.ensure_partition(date, int) TO audit_append;
GRANT EXECUTE ON FUNCTION audit.seal_event(bigint, text, bigint, int, bytea, bytea) TO audit_append;
GRANT SELECT ON audit.batch, audit.part, audit.event, audit.logfile, audit.retention TO audit_read;
GRANT SELECT ON audit.record, audit.statement, audit.started, audit.hole TO audit_tenant;
GRANT EXECUTE ON FUNCTION audit.my_tenants() TO audit_tenant;
GRANT EXECUTE ON FUNCTION audit.note(text, jsonb) TO audit_read, audit_tenant, audit_redact, audit_manage;
GRANT EXECUTE ON FUNCTION audit.own_line(text, text, bigint, bigint, text), audit.belongs(audit.record, text, text, text)
  TO audit_read, audit_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON audit.retention TO audit_manage;
