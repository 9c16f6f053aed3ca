-- The intermediate that a root elsewhere is asked to certify: its key waits here for the certificate. At most one.
CREATE TABLE authority_request (
  one           BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
  -- The id that its authority will have.
  id            TEXT NOT NULL,
  subject       TEXT NOT NULL,
  -- PKCS#10, as text and as it is.
  pem           TEXT NOT NULL,
  request       BYTEA NOT NULL,
  sealed_key    BYTEA,
  token_key     TEXT,
  created_at_ms BIGINT NOT NULL
);
