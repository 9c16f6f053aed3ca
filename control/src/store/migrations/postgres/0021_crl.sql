-- The newest revocation lists of each authority, so that all replicas give out the same bytes.
CREATE TABLE crl (
  authority      TEXT COLLATE "C"   NOT NULL PRIMARY KEY REFERENCES authority (id),
  -- Grows with every list, a complete one and its delta having the same.
  number         BIGINT  NOT NULL,
  this_update_ms BIGINT  NOT NULL,
  next_update_ms BIGINT  NOT NULL,
  -- What the next lists need to know of these: JSON.
  contents       TEXT COLLATE "C"   NOT NULL,
  complete       BYTEA   NOT NULL,
  delta          BYTEA   NOT NULL
);
