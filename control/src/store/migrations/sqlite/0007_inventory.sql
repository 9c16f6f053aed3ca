-- What is known beyond what was issued: who talks to whom, and which certificates are in use.

-- By whoever saw it last at the other end of a handshake, to a few minutes. Operational: no audit event.
ALTER TABLE certificate ADD COLUMN seen_at_ms INTEGER;

-- From where it attested, and the facts that proved it, as JSON; both empty: not known.
ALTER TABLE instance ADD COLUMN address TEXT NOT NULL DEFAULT '';
ALTER TABLE instance ADD COLUMN evidence TEXT NOT NULL DEFAULT '';

-- One identity that calls another at a port of its app. Operational, as proxies report it: no audit event.
CREATE TABLE edge (
  destination   TEXT    NOT NULL,
  source        TEXT    NOT NULL,
  -- The app's port; 0: not known.
  port          INTEGER NOT NULL,
  -- As in the message; 0: not known.
  protocol      INTEGER NOT NULL,
  first_at_ms   INTEGER NOT NULL,
  last_at_ms    INTEGER NOT NULL,
  connections   INTEGER NOT NULL,
  requests      INTEGER NOT NULL,
  bytes_in      INTEGER NOT NULL,
  bytes_out     INTEGER NOT NULL,
  denied        INTEGER NOT NULL,
  unreached     INTEGER NOT NULL,
  -- When last either; NULL: never.
  refused_at_ms INTEGER,
  -- Why, as JSON: a few.
  causes        TEXT    NOT NULL,
  PRIMARY KEY (destination, source, port)
) STRICT, WITHOUT ROWID;
CREATE INDEX edge_by_source ON edge (source, destination, port);
CREATE INDEX edge_by_last ON edge (last_at_ms, destination, source, port);
CREATE INDEX edge_by_refusal ON edge (refused_at_ms, destination, source, port) WHERE refused_at_ms IS NOT NULL;

-- How many rows a bounded table has.
CREATE TABLE tally (
  name  TEXT    NOT NULL PRIMARY KEY,
  count INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The newest report of each process that was counted: a repeated one is not counted again.
CREATE TABLE report_mark (
  instance TEXT    NOT NULL REFERENCES instance (id) ON DELETE CASCADE,
  run      BLOB    NOT NULL CHECK (length(run) = 16),
  number   INTEGER NOT NULL,
  at_ms    INTEGER NOT NULL,
  PRIMARY KEY (instance, run)
) STRICT, WITHOUT ROWID;
