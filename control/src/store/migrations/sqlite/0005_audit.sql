-- What makes the audit believable beyond its chain: the key that signs checkpoints, and the checkpoints.
CREATE TABLE audit_key (
  -- The first half of the SHA-256 of the public key, in hex.
  id            TEXT    NOT NULL PRIMARY KEY,
  -- Of several that are made at once, one counts.
  one           INTEGER NOT NULL UNIQUE CHECK (one = 1),
  public_key    BLOB    NOT NULL,
  sealed_key    BLOB    NOT NULL,
  created_at_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE audit_checkpoint (
  -- The event it speaks of.
  sequence INTEGER PRIMARY KEY,
  -- As it travels.
  line     TEXT    NOT NULL
) STRICT;
CREATE TRIGGER audit_checkpoint_is_not_changed BEFORE UPDATE ON audit_checkpoint
  BEGIN SELECT RAISE(ABORT, 'checkpoints are append-only'); END;
CREATE TRIGGER audit_checkpoint_is_not_removed BEFORE DELETE ON audit_checkpoint
  BEGIN SELECT RAISE(ABORT, 'checkpoints are append-only'); END;

-- Up to which event a copy of the audit has everything. Operational: no audit event.
CREATE TABLE audit_copy (
  name          TEXT    NOT NULL PRIMARY KEY,
  sequence      INTEGER NOT NULL,
  written_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
