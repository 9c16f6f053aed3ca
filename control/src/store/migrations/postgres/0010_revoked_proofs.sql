-- What proved an instance, so that it proves no other once that is revoked.
ALTER TABLE instance ADD COLUMN proof_sha256 BYTEA;
ALTER TABLE instance ADD COLUMN proof_ends_ms BIGINT;

CREATE TABLE revoked_proof (
  proof_sha256 BYTEA    NOT NULL PRIMARY KEY CHECK (length(proof_sha256) = 32),
  -- From then on it proves nothing anyway.
  ends_at_ms   BIGINT NOT NULL
);
CREATE INDEX revoked_proof_by_end ON revoked_proof (ends_at_ms);
