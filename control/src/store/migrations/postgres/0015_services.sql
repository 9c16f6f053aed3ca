-- How calls to an identity are made and taken.
CREATE TABLE service (
  spiffe_id     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  document      TEXT   NOT NULL,
  applied_at_ms BIGINT NOT NULL,
  applied_by    TEXT   NOT NULL,
  revision      BIGINT NOT NULL,
  -- The ownership label of its documents; empty: nobody said.
  managed_by    TEXT   NOT NULL
);

-- Where an instance says that it runs; empty: it does not say.
ALTER TABLE endpoint ADD COLUMN locality TEXT NOT NULL DEFAULT '';
