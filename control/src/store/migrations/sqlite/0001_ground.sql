-- Times are milliseconds since the epoch, UTC. Durations are seconds. Hashes are raw bytes.

CREATE TABLE meta (
  name  TEXT NOT NULL PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Every change of what proxies see, in total order and without gaps.
CREATE TABLE revision (
  revision INTEGER PRIMARY KEY,
  at_ms    INTEGER NOT NULL,
  topics   INTEGER NOT NULL,
  subject  TEXT    NOT NULL,
  -- Of a change of policy: whom it concerns, one pattern a line. NULL: everyone.
  targets  TEXT
) STRICT;

-- Every event covers the one before it by its hash; nothing is ever changed or removed.
CREATE TABLE audit (
  sequence INTEGER PRIMARY KEY,
  at_ms    INTEGER NOT NULL,
  actor    TEXT    NOT NULL,
  action   TEXT    NOT NULL,
  subject  TEXT    NOT NULL,
  detail   TEXT    NOT NULL,
  hash     BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;
CREATE INDEX audit_by_subject ON audit (subject, sequence);
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
  BEGIN SELECT RAISE(ABORT, 'audit events are append-only'); END;
CREATE TRIGGER audit_is_not_removed BEFORE DELETE ON audit
  BEGIN SELECT RAISE(ABORT, 'audit events are append-only'); END;

CREATE TABLE authority (
  id            TEXT    NOT NULL PRIMARY KEY,
  kind          TEXT    NOT NULL CHECK (kind IN ('root', 'intermediate')),
  active        INTEGER NOT NULL CHECK (active IN (0, 1)),
  subject       TEXT    NOT NULL,
  certificate   BLOB    NOT NULL,
  -- Sealed; NULL once the authority signs no more.
  sealed_key    BLOB,
  not_before_ms INTEGER NOT NULL,
  not_after_ms  INTEGER NOT NULL,
  created_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX one_active_authority ON authority (kind) WHERE active = 1;

CREATE TABLE workload (
  spiffe_id     TEXT    NOT NULL PRIMARY KEY,
  owner         TEXT    NOT NULL,
  purpose       TEXT    NOT NULL,
  ttl_s         INTEGER NOT NULL,
  status        TEXT    NOT NULL CHECK (status IN ('active', 'suspended', 'retired')),
  created_at_ms INTEGER NOT NULL,
  revision      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE join_token (
  secret_sha256  BLOB    NOT NULL PRIMARY KEY CHECK (length(secret_sha256) = 32),
  spiffe_id      TEXT    NOT NULL REFERENCES workload (spiffe_id),
  created_at_ms  INTEGER NOT NULL,
  created_by     TEXT    NOT NULL,
  expires_at_ms  INTEGER NOT NULL,
  -- Set once: by the instance that redeemed it, or `withdrawn`.
  spent_at_ms    INTEGER,
  spent_by       TEXT,
  refusals       INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX join_token_by_end ON join_token (expires_at_ms);
CREATE INDEX join_token_by_workload ON join_token (spiffe_id);

-- One attested proxy or operator, from its attestation through all renewals.
CREATE TABLE instance (
  id             TEXT    NOT NULL PRIMARY KEY CHECK (length(id) = 32),
  spiffe_id      TEXT    NOT NULL REFERENCES workload (spiffe_id),
  -- `departed`: it said goodbye; its SVID is good until it ends, and that nobody renews it is no finding.
  status         TEXT    NOT NULL CHECK (status IN ('active', 'departed', 'revoked', 'lapsed')),
  proof          TEXT    NOT NULL,
  version        TEXT    NOT NULL,
  attested_at_ms INTEGER NOT NULL,
  renewals       INTEGER NOT NULL,
  -- Whether it ever opened a stream: then it may still go by what it was told.
  watched        INTEGER NOT NULL DEFAULT 0 CHECK (watched IN (0, 1)),
  -- The newest SVID.
  serial         BLOB    NOT NULL,
  not_before_ms  INTEGER NOT NULL,
  not_after_ms   INTEGER NOT NULL,
  ended_at_ms    INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX instance_by_identity ON instance (spiffe_id);
CREATE INDEX instance_by_end ON instance (status, not_after_ms);

-- Every certificate ever signed by an intermediate, until it has been over for a while.
CREATE TABLE certificate (
  serial        BLOB    NOT NULL PRIMARY KEY,
  issuer_sha256 BLOB    NOT NULL CHECK (length(issuer_sha256) = 32),
  spki_sha256   BLOB    NOT NULL CHECK (length(spki_sha256) = 32),
  authority     TEXT    NOT NULL REFERENCES authority (id),
  spiffe_id     TEXT    NOT NULL,
  -- NULL: control's own.
  instance      TEXT    REFERENCES instance (id),
  not_before_ms INTEGER NOT NULL,
  not_after_ms  INTEGER NOT NULL,
  issued_at_ms  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX certificate_by_key ON certificate (spki_sha256);
CREATE INDEX certificate_by_identity ON certificate (spiffe_id, not_after_ms);
CREATE INDEX certificate_by_instance ON certificate (instance, not_after_ms);
CREATE INDEX certificate_by_end ON certificate (not_after_ms);

CREATE TABLE policy (
  name          TEXT    NOT NULL PRIMARY KEY,
  target        TEXT    NOT NULL,
  document      TEXT    NOT NULL,
  applied_at_ms INTEGER NOT NULL,
  applied_by    TEXT    NOT NULL,
  revision      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE revocation (
  kind            TEXT    NOT NULL CHECK (kind IN ('identity', 'instance', 'certificate', 'key')),
  -- A SPIFFE ID, an instance, `issuer_sha256:serial` in hex, or the SHA-256 of a key in hex.
  name            TEXT    NOT NULL,
  lapsed          INTEGER NOT NULL DEFAULT 0 CHECK (lapsed IN (0, 1)),
  reason          TEXT    NOT NULL,
  revoked_by      TEXT    NOT NULL,
  at_ms           INTEGER NOT NULL,
  -- The end of the last certificate it covers: never removed before that.
  covers_until_ms INTEGER NOT NULL,
  PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX revocation_by_end ON revocation (covers_until_ms);

-- Where instances accept mutual TLS. Operational: refreshed by Watch streams, no audit event.
CREATE TABLE endpoint (
  instance  TEXT    NOT NULL REFERENCES instance (id),
  spiffe_id TEXT    NOT NULL,
  address   TEXT    NOT NULL,
  port      INTEGER NOT NULL,
  -- The app's port behind it; 0: not said.
  app_port  INTEGER NOT NULL,
  PRIMARY KEY (instance, address, port, app_port)
) STRICT, WITHOUT ROWID;

CREATE TABLE admin (
  spiffe_id     TEXT    NOT NULL PRIMARY KEY,
  granted_at_ms INTEGER NOT NULL,
  granted_by    TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
