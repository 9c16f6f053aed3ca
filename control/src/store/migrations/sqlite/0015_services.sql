-- How calls to an identity are made and taken.
CREATE TABLE service (
  spiffe_id     TEXT    NOT NULL PRIMARY KEY,
  document      TEXT    NOT NULL,
  applied_at_ms INTEGER NOT NULL,
  applied_by    TEXT    NOT NULL,
  revision      INTEGER NOT NULL,
  -- The ownership label of its documents; empty: nobody said.
  managed_by    TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

-- Where an instance says that it runs; empty: it does not say.
ALTER TABLE endpoint ADD COLUMN locality TEXT NOT NULL DEFAULT '';
