-- Running controls that share this store; an embedded store has none.
CREATE TABLE replica (
  id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  version       TEXT COLLATE "C" NOT NULL,
  started_at_ms BIGINT NOT NULL,
  seen_at_ms    BIGINT NOT NULL
);

-- The newest Watch stream of each instance. Operational: written in batches, no audit event.
CREATE TABLE session (
  instance       TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES instance (id) ON DELETE CASCADE,
  -- Which control holds it, or held it last.
  replica        TEXT COLLATE "C" NOT NULL,
  open           BIGINT NOT NULL CHECK (open IN (0, 1)),
  address        TEXT COLLATE "C" NOT NULL,
  version        TEXT COLLATE "C" NOT NULL,
  opened_at_ms   BIGINT NOT NULL,
  seen_at_ms     BIGINT NOT NULL,
  -- The newest revision that the instance said to have in force, when, and how many connections it cut for it.
  in_force       BIGINT NOT NULL,
  in_force_at_ms BIGINT NOT NULL,
  closed         BIGINT NOT NULL
);
CREATE INDEX session_by_replica ON session (replica, open);

-- The newest commit of each replica's writer: by it a replica that lost its connection learns whether it was made.
CREATE TABLE commit_mark (
  replica TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  mark    TEXT COLLATE "C" NOT NULL
);
