-- The key of an authority in a PKCS#11 token, by its name there (RFC 7512). NULL: it is sealed, or erased.
ALTER TABLE authority ADD COLUMN token_key TEXT;

-- Keys in tokens that are to be destroyed there, from then on: their authority is gone, or never came to be.
CREATE TABLE token_key (
  name   TEXT NOT NULL PRIMARY KEY,
  due_ms BIGINT NOT NULL
);
