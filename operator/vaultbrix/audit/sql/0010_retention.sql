-- Retention: partitions are dropped whole, once all of their records are older than they are kept. What proofs need stays,
-- and an event says what went (vaultbrix.audit.erasure reads it).

-- Whoever changes what is kept how long is on record with the old value and the new.
CREATE FUNCTION audit.note_retention() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND (OLD.tenant, OLD.class) <> (NEW.tenant, NEW.class) THEN
    RAISE EXCEPTION 'tenant and class of a policy cannot be changed; remove it and set another';
  END IF;
  IF TG_OP <> 'UPDATE' OR (OLD.days, OLD.archive) <> (NEW.days, NEW.archive) THEN
    INSERT INTO audit.event(kind, actor, detail)
    VALUES ('retention', session_user, jsonb_build_object(
      'version', 1, 'tenant', coalesce(NEW.tenant, OLD.tenant), 'class', coalesce(NEW.class, OLD.class),
      'old', OLD.days, 'new', NEW.days, 'archive', coalesce(NEW.archive, false)));
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON audit.retention
  FOR EACH ROW EXECUTE FUNCTION audit.note_retention();

-- Whether a policy is written by the operator, from Kubernetes, or by hand; and whether partitions, of whatever policy,
-- are dropped only once they are in the archive.
ALTER TABLE audit.retention ADD COLUMN managed boolean NOT NULL DEFAULT false,
  ADD COLUMN archive boolean NOT NULL DEFAULT false;

-- How long a day's undivided partition is kept: as long as any of its records.
CREATE FUNCTION audit.longest_keep(p_day date) RETURNS int
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT greatest(400, max(split_part(part, ' ', 3)::int)) FROM audit.part
   WHERE part ^@ ('record ' || to_char(p_day, 'YYYY-MM-DD') || ' ')
$$;

-- The youngest day that has a record.
CREATE FUNCTION audit.newest_day() RETURNS date
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  leaf record;
  filled boolean;
BEGIN
  FOR leaf IN SELECT name, day FROM audit.leaves() WHERE day IS NOT NULL ORDER BY day DESC LOOP
    EXECUTE format('SELECT EXISTS (SELECT FROM audit.%I)', leaf.name) INTO filled;
    IF filled THEN RETURN leaf.day; END IF;
  END LOOP;
  RETURN NULL;
END $$;

-- Whether a partition may go as far as the archive goes. Of an undivided day all parts have to be there.
CREATE FUNCTION audit.archive_allows(p_day date, p_keep int, p_divided boolean) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM audit.retention WHERE archive) THEN RETURN true; END IF;
  IF p_divided THEN RETURN audit.archived(p_day, p_keep); END IF;
  RETURN EXISTS (SELECT FROM audit.export WHERE day = p_day)
     AND NOT EXISTS (SELECT FROM audit.part WHERE part ^@ ('record ' || to_char(p_day, 'YYYY-MM-DD') || ' ')
                        AND NOT audit.archived(p_day, split_part(part, ' ', 3)::int));
END $$;

-- What retention is decided from: partitions, and what time it is by the store and by its records.
CREATE FUNCTION audit.kept()
RETURNS TABLE(name text, day date, keep int, divided boolean, bytes bigint, archive_allows boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT l.name, l.day, coalesce(l.keep, audit.longest_keep(l.day)), l.keep IS NOT NULL,
         pg_total_relation_size(format('audit.%I', l.name)), audit.archive_allows(l.day, l.keep, l.keep IS NOT NULL)
    FROM audit.leaves() l WHERE l.day IS NOT NULL
$$;
CREATE FUNCTION audit.clocks(OUT store timestamptz, OUT newest date)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT clock_timestamp(), audit.newest_day()
$$;
REVOKE ALL ON FUNCTION audit.archive_allows(date, int, boolean), audit.longest_keep(date), audit.newest_day(), audit.kept(), audit.clocks() FROM PUBLIC;

-- Drop a partition that is due, and say so: `through` is the last batch of each server that had rows in it. What comes
-- later goes into a new partition of the same name. Returns its rows. Raises lock_not_available where readers hold it.
CREATE FUNCTION audit.drop_partition(p_name text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
  leaf record;
  parts text[];
  dropped bigint;
  unsealed bigint := 0;
BEGIN
  -- An older snapshot would miss batches, which then would seem lost.
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'partitions are dropped at isolation level read committed';
  END IF;
  SELECT l.day, coalesce(l.keep, audit.longest_keep(l.day)) AS keep, l.keep IS NOT NULL AS divided INTO leaf
    FROM audit.leaves() l WHERE l.name = p_name AND l.day IS NOT NULL;
  IF NOT FOUND THEN RAISE EXCEPTION 'there is no partition %', p_name; END IF;
  -- A clock that stepped forward must not drop anything: the record itself has to have come that far.
  IF leaf.day + 1 + leaf.keep > least((clock_timestamp() AT TIME ZONE 'UTC')::date, audit.newest_day()) THEN
    RAISE EXCEPTION 'partition % is kept until %', p_name, leaf.day + 1 + leaf.keep;
  END IF;
  PERFORM pg_advisory_xact_lock(hashtextextended('audit retention record_' || to_char(leaf.day, 'YYYYMMDD'), 0));
  IF NOT audit.archive_allows(leaf.day, leaf.keep, leaf.divided) THEN
    RAISE EXCEPTION 'partition % is not in the archive', p_name;
  END IF;
  IF leaf.divided THEN
    parts := ARRAY['record ' || to_char(leaf.day, 'YYYY-MM-DD') || ' ' || leaf.keep];
  ELSE
    EXECUTE format('SELECT count(*) FROM audit.%I WHERE batch IS NULL', p_name) INTO unsealed;
    SELECT coalesce(array_agg(DISTINCT part), '{}') INTO parts FROM audit.part
     WHERE part ^@ ('record ' || to_char(leaf.day, 'YYYY-MM-DD') || ' ');
  END IF;
  EXECUTE format('DROP TABLE audit.%I', p_name);
  WITH gone AS (
    INSERT INTO audit.event(kind, actor, detail)
    SELECT 'expired', session_user, jsonb_build_object('version', 1, 'part', part, 'rows', sum(leaves),
                                                       'through', jsonb_object_agg(server, last))
      FROM (SELECT p.part, p.server, max(p.batch) AS last, sum(p.leaves) AS leaves FROM audit.part p
             WHERE p.part = ANY(parts) AND p.batch > coalesce((
               SELECT max((e.detail->'through'->>p.server)::bigint) FROM audit.event e
                WHERE e.kind = 'expired' AND e.detail->>'part' = p.part), 0)
             GROUP BY p.part, p.server) s
     GROUP BY part
    RETURNING (detail->>'rows')::bigint AS rows)
  SELECT coalesce(sum(rows), 0) INTO dropped FROM gone;
  IF unsealed > 0 THEN
    INSERT INTO audit.event(kind, actor, detail)
    VALUES ('expired', session_user, jsonb_build_object(
      'version', 1, 'part', 'record ' || to_char(leaf.day, 'YYYY-MM-DD'), 'rows', unsealed, 'through', '{}'::jsonb));
  END IF;
  RETURN dropped + unsealed;
END $$;
REVOKE ALL ON FUNCTION audit.drop_partition(text) FROM PUBLIC;

-- Drop the tables of days that have no partition left; at most so many at once. Returns how many.
CREATE FUNCTION audit.drop_empty_days(p_most int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
  empty record;
  dropped int := 0;
BEGIN
  FOR empty IN SELECT c.oid, c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                WHERE i.inhparent = 'audit.record'::regclass AND c.relkind = 'p'
                  AND NOT EXISTS (SELECT FROM pg_inherits child WHERE child.inhparent = c.oid) LIMIT p_most LOOP
    PERFORM pg_advisory_xact_lock(hashtextextended('audit retention ' || empty.relname, 0));
    -- One may have been made since.
    IF NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = empty.oid) AND to_regclass('audit.' || empty.relname) = empty.oid THEN
      EXECUTE format('DROP TABLE audit.%I', empty.relname);
      dropped := dropped + 1;
    END IF;
  END LOOP;
  RETURN dropped;
END $$;
REVOKE ALL ON FUNCTION audit.drop_empty_days(int) FROM PUBLIC;

-- Quarantined lines hold what tenants sent, but cannot be told apart by tenant: they are erased once the longest policy
-- has passed since they were found. That they were there, and where, stays.
CREATE FUNCTION audit.expire_quarantine(p_really boolean) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  longest int := (SELECT coalesce(max(days), 400) FROM audit.retention);
  places tid[];
BEGIN
  SELECT coalesce(array_agg(ctid), '{}') INTO places FROM audit.quarantine
   WHERE redaction IS NULL AND found_at < least(clock_timestamp(), audit.newest_day()::timestamp AT TIME ZONE 'UTC')
                                          - make_interval(days => longest);
  IF NOT p_really THEN RETURN cardinality(places); END IF;
  RETURN audit.erase('quarantine', places, NULL, audit.why('retention', format('kept for %s days', longest), NULL));
END $$;
REVOKE ALL ON FUNCTION audit.expire_quarantine(boolean) FROM PUBLIC;

GRANT EXECUTE ON FUNCTION audit.kept(), audit.clocks(), audit.drop_partition(text), audit.drop_empty_days(int),
  audit.expire_quarantine(boolean) TO audit_manage;
