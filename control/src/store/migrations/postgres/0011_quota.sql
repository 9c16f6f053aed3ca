-- What each identity got in its newest hour.
CREATE TABLE issuance_count (
  spiffe_id TEXT NOT NULL PRIMARY KEY,
  since_ms  BIGINT NOT NULL,
  issued    BIGINT NOT NULL CHECK (issued >= 0)
);
CREATE INDEX issuance_count_by_begin ON issuance_count (since_ms);
