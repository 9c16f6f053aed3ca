-- What makes the audit believable beyond its chain: the key that signs checkpoints, and the checkpoints.
CREATE TABLE audit_key (
  -- The first half of the SHA-256 of the public key, in hex.
  id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  -- Of several that are made at once, one counts.
  one           BIGINT NOT NULL UNIQUE CHECK (one = 1),
  public_key    BYTEA NOT NULL,
  sealed_key    BYTEA NOT NULL,
  created_at_ms BIGINT NOT NULL
);

CREATE TABLE audit_checkpoint (
  -- The event it speaks of.
  sequence BIGINT NOT NULL PRIMARY KEY,
  -- As it travels.
  line     TEXT COLLATE "C" NOT NULL
);
CREATE FUNCTION audit_checkpoint_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION 'checkpoints are append-only'; END $$;
CREATE TRIGGER audit_checkpoint_is_not_changed BEFORE UPDATE OR DELETE ON audit_checkpoint
  FOR EACH ROW EXECUTE FUNCTION audit_checkpoint_is_append_only();
CREATE TRIGGER audit_checkpoint_is_not_emptied BEFORE TRUNCATE ON audit_checkpoint
  FOR EACH STATEMENT EXECUTE FUNCTION audit_checkpoint_is_append_only();

-- Up to which event a copy of the audit has everything. Operational: no audit event.
CREATE TABLE audit_copy (
  name          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  sequence      BIGINT NOT NULL,
  written_at_ms BIGINT NOT NULL
);
