-- Workloads as documents declare them. Lists are texts, one item a line; an empty text is nothing said.

-- A SPIFFE ID with variables: one entry for many workloads.
CREATE TABLE template (
  name          TEXT    NOT NULL PRIMARY KEY,
  owner         TEXT    NOT NULL,
  contact       TEXT    NOT NULL,
  purpose       TEXT    NOT NULL,
  environment   TEXT    NOT NULL,
  ttl_s         INTEGER NOT NULL,
  ttl_min_s     INTEGER,
  ttl_max_s     INTEGER,
  dns           TEXT    NOT NULL,
  status        TEXT    NOT NULL CHECK (status IN ('active', 'suspended', 'retired')),
  until_ms      INTEGER,
  approval      TEXT    NOT NULL CHECK (approval IN ('none', 'one', 'two')),
  managed_by    TEXT    NOT NULL,
  held          INTEGER NOT NULL CHECK (held IN (0, 1)),
  created_at_ms INTEGER NOT NULL,
  revision      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

ALTER TABLE workload ADD COLUMN contact TEXT NOT NULL DEFAULT '';
ALTER TABLE workload ADD COLUMN environment TEXT NOT NULL DEFAULT '';
ALTER TABLE workload ADD COLUMN ttl_min_s INTEGER;
ALTER TABLE workload ADD COLUMN ttl_max_s INTEGER;
ALTER TABLE workload ADD COLUMN dns TEXT NOT NULL DEFAULT '';
ALTER TABLE workload ADD COLUMN until_ms INTEGER;
ALTER TABLE workload ADD COLUMN approval TEXT NOT NULL DEFAULT 'none' CHECK (approval IN ('none', 'one', 'two'));
ALTER TABLE workload ADD COLUMN managed_by TEXT NOT NULL DEFAULT '';
-- Suspended by hand or with a revocation: lifted by hand only.
ALTER TABLE workload ADD COLUMN held INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1));
-- Of an identity that a template gave: all columns but status and held follow it.
ALTER TABLE workload ADD COLUMN template TEXT REFERENCES template (name);
CREATE INDEX workload_by_template ON workload (template, spiffe_id) WHERE template IS NOT NULL;
UPDATE workload SET held = 1 WHERE status = 'suspended';

-- What has to be proven to get the identity of a workload, or one of a template.
CREATE TABLE selector (
  name     TEXT NOT NULL,
  selector TEXT NOT NULL,
  PRIMARY KEY (name, selector)
) STRICT, WITHOUT ROWID;
CREATE INDEX selector_by_text ON selector (selector, name);

ALTER TABLE policy ADD COLUMN managed_by TEXT NOT NULL DEFAULT '';
