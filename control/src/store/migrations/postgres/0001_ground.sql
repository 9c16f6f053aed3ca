-- Times are milliseconds since the epoch, UTC. Durations are seconds. Hashes are raw bytes.

CREATE TABLE meta (
  name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  value TEXT COLLATE "C" NOT NULL
);

-- Every change of what proxies see, in total order and without gaps.
CREATE TABLE revision (
  revision BIGINT PRIMARY KEY,
  at_ms    BIGINT NOT NULL,
  topics   BIGINT NOT NULL,
  subject TEXT COLLATE "C"    NOT NULL,
  -- Of a change of policy: whom it concerns, one pattern a line. NULL: everyone.
  targets TEXT COLLATE "C"
);

-- Every event covers the one before it by its hash; nothing is ever changed or removed.
CREATE TABLE audit (
  sequence BIGINT PRIMARY KEY,
  at_ms    BIGINT NOT NULL,
  actor TEXT COLLATE "C"    NOT NULL,
  action TEXT COLLATE "C"    NOT NULL,
  subject TEXT COLLATE "C"    NOT NULL,
  detail TEXT COLLATE "C"    NOT NULL,
  hash     BYTEA    NOT NULL CHECK (length(hash) = 32)
);
CREATE INDEX audit_by_subject ON audit (subject, sequence);
CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION 'audit events are append-only'; END $$;
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE OR DELETE ON audit
  FOR EACH ROW EXECUTE FUNCTION audit_is_append_only();
CREATE TRIGGER audit_is_not_emptied BEFORE TRUNCATE ON audit
  FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();

CREATE TABLE authority (
  id TEXT COLLATE "C"    NOT NULL PRIMARY KEY,
  kind TEXT COLLATE "C"    NOT NULL CHECK (kind IN ('root', 'intermediate')),
  active        BIGINT NOT NULL CHECK (active IN (0, 1)),
  subject TEXT COLLATE "C"    NOT NULL,
  certificate   BYTEA    NOT NULL,
  -- Sealed; NULL once the authority signs no more.
  sealed_key    BYTEA,
  not_before_ms BIGINT NOT NULL,
  not_after_ms  BIGINT NOT NULL,
  created_at_ms BIGINT NOT NULL
);
CREATE UNIQUE INDEX one_active_authority ON authority (kind) WHERE active = 1;

CREATE TABLE workload (
  spiffe_id TEXT COLLATE "C"    NOT NULL PRIMARY KEY,
  owner TEXT COLLATE "C"    NOT NULL,
  purpose TEXT COLLATE "C"    NOT NULL,
  ttl_s         BIGINT NOT NULL,
  status TEXT COLLATE "C"    NOT NULL CHECK (status IN ('active', 'suspended', 'retired')),
  created_at_ms BIGINT NOT NULL,
  revision      BIGINT NOT NULL
);

CREATE TABLE join_token (
  secret_sha256  BYTEA    NOT NULL PRIMARY KEY CHECK (length(secret_sha256) = 32),
  spiffe_id TEXT COLLATE "C"    NOT NULL REFERENCES workload (spiffe_id),
  created_at_ms  BIGINT NOT NULL,
  created_by TEXT COLLATE "C"    NOT NULL,
  expires_at_ms  BIGINT NOT NULL,
  -- Set once: by the instance that redeemed it, or `withdrawn`.
  spent_at_ms    BIGINT,
  spent_by TEXT COLLATE "C",
  refusals       BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX join_token_by_end ON join_token (expires_at_ms);
CREATE INDEX join_token_by_workload ON join_token (spiffe_id);

-- One attested proxy or operator, from its attestation through all renewals.
CREATE TABLE instance (
  id TEXT COLLATE "C"    NOT NULL PRIMARY KEY CHECK (length(id) = 32),
  spiffe_id TEXT COLLATE "C"    NOT NULL REFERENCES workload (spiffe_id),
  -- `departed`: it said goodbye; its SVID is good until it ends, and that nobody renews it is no finding.
  status TEXT COLLATE "C"    NOT NULL CHECK (status IN ('active', 'departed', 'revoked', 'lapsed')),
  proof TEXT COLLATE "C"    NOT NULL,
  version TEXT COLLATE "C"    NOT NULL,
  attested_at_ms BIGINT NOT NULL,
  renewals       BIGINT NOT NULL,
  -- Whether it ever opened a stream: then it may still go by what it was told.
  watched        BIGINT NOT NULL DEFAULT 0 CHECK (watched IN (0, 1)),
  -- The newest SVID.
  serial         BYTEA    NOT NULL,
  not_before_ms  BIGINT NOT NULL,
  not_after_ms   BIGINT NOT NULL,
  ended_at_ms    BIGINT
);
CREATE INDEX instance_by_identity ON instance (spiffe_id);
CREATE INDEX instance_by_end ON instance (status, not_after_ms);

-- Every certificate ever signed by an intermediate, until it has been over for a while.
CREATE TABLE certificate (
  serial        BYTEA    NOT NULL PRIMARY KEY,
  issuer_sha256 BYTEA    NOT NULL CHECK (length(issuer_sha256) = 32),
  spki_sha256   BYTEA    NOT NULL CHECK (length(spki_sha256) = 32),
  authority TEXT COLLATE "C"    NOT NULL REFERENCES authority (id),
  spiffe_id TEXT COLLATE "C"    NOT NULL,
  -- NULL: control's own.
  instance TEXT COLLATE "C"    REFERENCES instance (id),
  not_before_ms BIGINT NOT NULL,
  not_after_ms  BIGINT NOT NULL,
  issued_at_ms  BIGINT NOT NULL
);
CREATE INDEX certificate_by_key ON certificate (spki_sha256);
CREATE INDEX certificate_by_identity ON certificate (spiffe_id, not_after_ms);
CREATE INDEX certificate_by_instance ON certificate (instance, not_after_ms);
CREATE INDEX certificate_by_end ON certificate (not_after_ms);

CREATE TABLE policy (
  name TEXT COLLATE "C"    NOT NULL PRIMARY KEY,
  target TEXT COLLATE "C"    NOT NULL,
  document TEXT COLLATE "C"    NOT NULL,
  applied_at_ms BIGINT NOT NULL,
  applied_by TEXT COLLATE "C"    NOT NULL,
  revision      BIGINT NOT NULL
);

CREATE TABLE revocation (
  kind TEXT COLLATE "C"    NOT NULL CHECK (kind IN ('identity', 'instance', 'certificate', 'key')),
  -- A SPIFFE ID, an instance, `issuer_sha256:serial` in hex, or the SHA-256 of a key in hex.
  name TEXT COLLATE "C"    NOT NULL,
  lapsed          BIGINT NOT NULL DEFAULT 0 CHECK (lapsed IN (0, 1)),
  reason TEXT COLLATE "C"    NOT NULL,
  revoked_by TEXT COLLATE "C"    NOT NULL,
  at_ms           BIGINT NOT NULL,
  -- The end of the last certificate it covers: never removed before that.
  covers_until_ms BIGINT NOT NULL,
  PRIMARY KEY (kind, name)
);
CREATE INDEX revocation_by_end ON revocation (covers_until_ms);

-- Where instances accept mutual TLS. Operational: refreshed by Watch streams, no audit event.
CREATE TABLE endpoint (
  instance TEXT COLLATE "C"    NOT NULL REFERENCES instance (id),
  spiffe_id TEXT COLLATE "C"    NOT NULL,
  address TEXT COLLATE "C"    NOT NULL,
  port      BIGINT NOT NULL,
  -- The app's port behind it; 0: not said.
  app_port  BIGINT NOT NULL,
  PRIMARY KEY (instance, address, port, app_port)
);

CREATE TABLE admin (
  spiffe_id TEXT COLLATE "C"    NOT NULL PRIMARY KEY,
  granted_at_ms BIGINT NOT NULL,
  granted_by TEXT COLLATE "C"    NOT NULL
);
