-- Keys that sign JWT-SVIDs, one after another.
CREATE TABLE jwt_key (
  -- The `kid` of its tokens.
  id TEXT COLLATE "C"    NOT NULL PRIMARY KEY,
  phase TEXT COLLATE "C" NOT NULL CHECK (phase IN ('prepared', 'active', 'retiring')),
  phase_at_ms   BIGINT   NOT NULL,
  -- A point of P-256, uncompressed.
  public_key    BYTEA    NOT NULL,
  -- Sealed; NULL once it signs no more.
  sealed_key    BYTEA,
  -- Of one that retires: no token that it signed is good for longer.
  ends_ms       BIGINT,
  -- The revision with which these keys changed the trust bundle last.
  announced     BIGINT   NOT NULL DEFAULT 0,
  created_at_ms BIGINT   NOT NULL
);
CREATE UNIQUE INDEX one_jwt_key_signs ON jwt_key (phase) WHERE phase = 'active';
CREATE UNIQUE INDEX one_jwt_key_is_next ON jwt_key (phase) WHERE phase = 'prepared';

-- How many tokens an identity got in the hour that began then.
CREATE TABLE jwt_count (
  spiffe_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  since_ms  BIGINT           NOT NULL,
  issued    BIGINT           NOT NULL
);
CREATE INDEX jwt_count_by_begin ON jwt_count (since_ms);

-- Whether a replica publishes these keys.
ALTER TABLE replica ADD COLUMN jwt BIGINT NOT NULL DEFAULT 0;
