-- Workloads as documents declare them. Lists are texts, one item a line; an empty text is nothing said.

-- A SPIFFE ID with variables: one entry for many workloads.
CREATE TABLE template (
  name          TEXT COLLATE "C"    NOT NULL PRIMARY KEY,
  owner         TEXT COLLATE "C"    NOT NULL,
  contact       TEXT COLLATE "C"    NOT NULL,
  purpose       TEXT COLLATE "C"    NOT NULL,
  environment   TEXT COLLATE "C"    NOT NULL,
  ttl_s         BIGINT NOT NULL,
  ttl_min_s     BIGINT,
  ttl_max_s     BIGINT,
  dns           TEXT COLLATE "C"    NOT NULL,
  status        TEXT COLLATE "C"    NOT NULL CHECK (status IN ('active', 'suspended', 'retired')),
  until_ms      BIGINT,
  approval      TEXT COLLATE "C"    NOT NULL CHECK (approval IN ('none', 'one', 'two')),
  managed_by    TEXT COLLATE "C"    NOT NULL,
  held          BIGINT NOT NULL CHECK (held IN (0, 1)),
  created_at_ms BIGINT NOT NULL,
  revision      BIGINT NOT NULL
);

ALTER TABLE workload ADD COLUMN contact TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE workload ADD COLUMN environment TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE workload ADD COLUMN ttl_min_s BIGINT;
ALTER TABLE workload ADD COLUMN ttl_max_s BIGINT;
ALTER TABLE workload ADD COLUMN dns TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE workload ADD COLUMN until_ms BIGINT;
ALTER TABLE workload ADD COLUMN approval TEXT COLLATE "C" NOT NULL DEFAULT 'none' CHECK (approval IN ('none', 'one', 'two'));
ALTER TABLE workload ADD COLUMN managed_by TEXT COLLATE "C" NOT NULL DEFAULT '';
-- Suspended by hand or with a revocation: lifted by hand only.
ALTER TABLE workload ADD COLUMN held BIGINT NOT NULL DEFAULT 0 CHECK (held IN (0, 1));
-- Of an identity that a template gave: all columns but status and held follow it.
ALTER TABLE workload ADD COLUMN template TEXT COLLATE "C" REFERENCES template (name);
CREATE INDEX workload_by_template ON workload (template, spiffe_id) WHERE template IS NOT NULL;
UPDATE workload SET held = 1 WHERE status = 'suspended';

-- What has to be proven to get the identity of a workload, or one of a template.
CREATE TABLE selector (
  name     TEXT COLLATE "C" NOT NULL,
  selector TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY (name, selector)
);
CREATE INDEX selector_by_text ON selector (selector, name);

ALTER TABLE policy ADD COLUMN managed_by TEXT COLLATE "C" NOT NULL DEFAULT '';
