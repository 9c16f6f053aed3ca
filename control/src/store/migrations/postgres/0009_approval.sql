-- What operators ask for on a subtree beyond what workloads declare. Few rows.
CREATE TABLE restriction (
  kind      TEXT COLLATE "C"    NOT NULL CHECK (kind IN ('approval', 'freeze')),
  -- A SPIFFE ID, one that ends in `/*` for all below it, or `everything`.
  scope     TEXT COLLATE "C"    NOT NULL,
  -- With `below` all identities that begin so, else the one that is so.
  prefix    TEXT COLLATE "C"    NOT NULL,
  below     BIGINT NOT NULL CHECK (below IN (0, 1)),
  -- `one` or `two` approvers; what is frozen: `new` instances or `all` issuance.
  value     TEXT COLLATE "C"    NOT NULL CHECK (value IN ('one', 'two', 'new', 'all')),
  reason    TEXT COLLATE "C"    NOT NULL,
  set_by    TEXT COLLATE "C"    NOT NULL,
  set_at_ms BIGINT NOT NULL,
  PRIMARY KEY (kind, scope)
);

-- New instances that wait for people, or waited: each with a proof that was believed, and one signing request.
CREATE TABLE held_request (
  id            TEXT COLLATE "C"    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
  spiffe_id     TEXT COLLATE "C"    NOT NULL,
  -- The workload or template by which it asks.
  registration  TEXT COLLATE "C"    NOT NULL,
  csr_sha256    BYTEA    NOT NULL CHECK (length(csr_sha256) = 32),
  spki_sha256   BYTEA    NOT NULL CHECK (length(spki_sha256) = 32),
  proof         TEXT COLLATE "C"    NOT NULL,
  -- JSON.
  evidence      TEXT COLLATE "C"    NOT NULL,
  address       TEXT COLLATE "C"    NOT NULL,
  version       TEXT COLLATE "C"    NOT NULL,
  -- The join token it came with, and who made that.
  token_sha256  BYTEA,
  token_by      TEXT COLLATE "C",
  -- Approvals that it takes, as of the last look.
  needed        BIGINT NOT NULL CHECK (needed IN (1, 2)),
  state         TEXT COLLATE "C"    NOT NULL CHECK (state IN ('pending', 'approved', 'denied', 'expired', 'used')),
  created_at_ms BIGINT NOT NULL,
  expires_at_ms BIGINT NOT NULL
);
CREATE UNIQUE INDEX held_request_by_csr ON held_request (csr_sha256, spiffe_id);
CREATE INDEX held_request_by_identity ON held_request (spiffe_id, state);
CREATE INDEX held_request_by_end ON held_request (state, expires_at_ms);
CREATE INDEX held_request_by_token ON held_request (token_sha256) WHERE token_sha256 IS NOT NULL;

CREATE TABLE held_decision (
  request TEXT COLLATE "C"    NOT NULL REFERENCES held_request (id) ON DELETE CASCADE,
  actor   TEXT COLLATE "C"    NOT NULL,
  verdict TEXT COLLATE "C"    NOT NULL CHECK (verdict IN ('approved', 'denied')),
  reason  TEXT COLLATE "C"    NOT NULL,
  at_ms   BIGINT NOT NULL,
  PRIMARY KEY (request, actor)
);

-- Who declared last what proves the identity and who has to agree: they are no approver of it.
ALTER TABLE workload ADD COLUMN declared_by TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE template ADD COLUMN declared_by TEXT COLLATE "C" NOT NULL DEFAULT '';
