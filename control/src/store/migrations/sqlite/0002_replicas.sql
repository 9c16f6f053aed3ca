-- Running controls that share this store; an embedded store has none.
CREATE TABLE replica (
  id            TEXT    NOT NULL PRIMARY KEY,
  version       TEXT    NOT NULL,
  started_at_ms INTEGER NOT NULL,
  seen_at_ms    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The newest Watch stream of each instance. Operational: written in batches, no audit event.
CREATE TABLE session (
  instance       TEXT    NOT NULL PRIMARY KEY REFERENCES instance (id) ON DELETE CASCADE,
  -- Which control holds it, or held it last.
  replica        TEXT    NOT NULL,
  open           INTEGER NOT NULL CHECK (open IN (0, 1)),
  address        TEXT    NOT NULL,
  version        TEXT    NOT NULL,
  opened_at_ms   INTEGER NOT NULL,
  seen_at_ms     INTEGER NOT NULL,
  -- The newest revision that the instance said to have in force, when, and how many connections it cut for it.
  in_force       INTEGER NOT NULL,
  in_force_at_ms INTEGER NOT NULL,
  closed         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX session_by_replica ON session (replica, open);

-- The newest commit of each replica's writer: by it a replica that lost its connection learns whether it was made.
CREATE TABLE commit_mark (
  replica TEXT NOT NULL PRIMARY KEY,
  mark    TEXT NOT NULL
) STRICT, WITHOUT ROWID;
