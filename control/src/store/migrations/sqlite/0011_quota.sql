-- What each identity got in its newest hour.
CREATE TABLE issuance_count (
  spiffe_id TEXT NOT NULL PRIMARY KEY,
  since_ms  INTEGER NOT NULL,
  issued    INTEGER NOT NULL CHECK (issued >= 0)
) STRICT, WITHOUT ROWID;
CREATE INDEX issuance_count_by_begin ON issuance_count (since_ms);
