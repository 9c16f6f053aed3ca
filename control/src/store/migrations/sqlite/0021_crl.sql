-- The newest revocation lists of each authority, so that all replicas give out the same bytes.
CREATE TABLE crl (
  authority      TEXT    NOT NULL PRIMARY KEY REFERENCES authority (id),
  -- Grows with every list, a complete one and its delta having the same.
  number         INTEGER NOT NULL,
  this_update_ms INTEGER NOT NULL,
  next_update_ms INTEGER NOT NULL,
  -- What the next lists need to know of these: JSON.
  contents       TEXT    NOT NULL,
  complete       BLOB    NOT NULL,
  delta          BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
