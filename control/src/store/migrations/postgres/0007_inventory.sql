-- What is known beyond what was issued: who talks to whom, and which certificates are in use.

-- By whoever saw it last at the other end of a handshake, to a few minutes. Operational: no audit event.
ALTER TABLE certificate ADD COLUMN seen_at_ms BIGINT;

-- From where it attested, and the facts that proved it, as JSON; both empty: not known.
ALTER TABLE instance ADD COLUMN address TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE instance ADD COLUMN evidence TEXT COLLATE "C" NOT NULL DEFAULT '';

-- One identity that calls another at a port of its app. Operational, as proxies report it: no audit event.
CREATE TABLE edge (
  destination TEXT COLLATE "C" NOT NULL,
  source TEXT COLLATE "C" NOT NULL,
  -- The app's port; 0: not known.
  port          BIGINT NOT NULL,
  -- As in the message; 0: not known.
  protocol      BIGINT NOT NULL,
  first_at_ms   BIGINT NOT NULL,
  last_at_ms    BIGINT NOT NULL,
  connections   BIGINT NOT NULL,
  requests      BIGINT NOT NULL,
  bytes_in      BIGINT NOT NULL,
  bytes_out     BIGINT NOT NULL,
  denied        BIGINT NOT NULL,
  unreached     BIGINT NOT NULL,
  -- When last either; NULL: never.
  refused_at_ms BIGINT,
  -- Why, as JSON: a few.
  causes TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY (destination, source, port)
);
CREATE INDEX edge_by_source ON edge (source, destination, port);
CREATE INDEX edge_by_last ON edge (last_at_ms, destination, source, port);
CREATE INDEX edge_by_refusal ON edge (refused_at_ms, destination, source, port) WHERE refused_at_ms IS NOT NULL;

-- How many rows a bounded table has.
CREATE TABLE tally (
  name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  count BIGINT NOT NULL
);

-- The newest report of each process that was counted: a repeated one is not counted again.
CREATE TABLE report_mark (
  instance TEXT COLLATE "C" NOT NULL REFERENCES instance (id) ON DELETE CASCADE,
  run      BYTEA    NOT NULL CHECK (length(run) = 16),
  number   BIGINT NOT NULL,
  at_ms    BIGINT NOT NULL,
  PRIMARY KEY (instance, run)
);
