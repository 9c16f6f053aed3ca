-- The intermediate that a root elsewhere is asked to certify: its key waits here for the certificate. At most one.
CREATE TABLE authority_request (
  one           INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
  -- The id that its authority will have.
  id            TEXT NOT NULL,
  subject       TEXT NOT NULL,
  -- PKCS#10, as text and as it is.
  pem           TEXT NOT NULL,
  request       BLOB NOT NULL,
  sealed_key    BLOB,
  token_key     TEXT,
  created_at_ms INTEGER NOT NULL
) STRICT;
