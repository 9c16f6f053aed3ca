-- Who was told to renew at once: the newest order on each scope, until nothing is left that it could mean.
CREATE TABLE rotation (
  scope            TEXT    NOT NULL PRIMARY KEY,
  -- SVIDs that were issued before are meant.
  issued_before_ms INTEGER NOT NULL,
  -- Each renews at a moment within this time.
  within_ms        INTEGER NOT NULL,
  reason           TEXT    NOT NULL,
  ordered_by       TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX rotation_by_time ON rotation (issued_before_ms);
