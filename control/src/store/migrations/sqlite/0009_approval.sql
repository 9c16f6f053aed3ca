-- What operators ask for on a subtree beyond what workloads declare. Few rows.
CREATE TABLE restriction (
  kind      TEXT    NOT NULL CHECK (kind IN ('approval', 'freeze')),
  -- A SPIFFE ID, one that ends in `/*` for all below it, or `everything`.
  scope     TEXT    NOT NULL,
  -- With `below` all identities that begin so, else the one that is so.
  prefix    TEXT    NOT NULL,
  below     INTEGER NOT NULL CHECK (below IN (0, 1)),
  -- `one` or `two` approvers; what is frozen: `new` instances or `all` issuance.
  value     TEXT    NOT NULL CHECK (value IN ('one', 'two', 'new', 'all')),
  reason    TEXT    NOT NULL,
  set_by    TEXT    NOT NULL,
  set_at_ms INTEGER NOT NULL,
  PRIMARY KEY (kind, scope)
) STRICT, WITHOUT ROWID;

-- New instances that wait for people, or waited: each with a proof that was believed, and one signing request.
CREATE TABLE held_request (
  id            TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
  spiffe_id     TEXT    NOT NULL,
  -- The workload or template by which it asks.
  registration  TEXT    NOT NULL,
  csr_sha256    BLOB    NOT NULL CHECK (length(csr_sha256) = 32),
  spki_sha256   BLOB    NOT NULL CHECK (length(spki_sha256) = 32),
  proof         TEXT    NOT NULL,
  -- JSON.
  evidence      TEXT    NOT NULL,
  address       TEXT    NOT NULL,
  version       TEXT    NOT NULL,
  -- The join token it came with, and who made that.
  token_sha256  BLOB,
  token_by      TEXT,
  -- Approvals that it takes, as of the last look.
  needed        INTEGER NOT NULL CHECK (needed IN (1, 2)),
  state         TEXT    NOT NULL CHECK (state IN ('pending', 'approved', 'denied', 'expired', 'used')),
  created_at_ms INTEGER NOT NULL,
  expires_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX held_request_by_csr ON held_request (csr_sha256, spiffe_id);
CREATE INDEX held_request_by_identity ON held_request (spiffe_id, state);
CREATE INDEX held_request_by_end ON held_request (state, expires_at_ms);
CREATE INDEX held_request_by_token ON held_request (token_sha256) WHERE token_sha256 IS NOT NULL;

CREATE TABLE held_decision (
  request TEXT    NOT NULL REFERENCES held_request (id) ON DELETE CASCADE,
  actor   TEXT    NOT NULL,
  verdict TEXT    NOT NULL CHECK (verdict IN ('approved', 'denied')),
  reason  TEXT    NOT NULL,
  at_ms   INTEGER NOT NULL,
  PRIMARY KEY (request, actor)
) STRICT, WITHOUT ROWID;

-- Who declared last what proves the identity and who has to agree: they are no approver of it.
ALTER TABLE workload ADD COLUMN declared_by TEXT NOT NULL DEFAULT '';
ALTER TABLE template ADD COLUMN declared_by TEXT NOT NULL DEFAULT '';
