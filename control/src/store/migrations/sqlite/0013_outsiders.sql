-- An address without identity at one end of connections: it calls a workload in plaintext (way 0), or a workload calls
-- it as an unknown destination (way 1). Operational, as proxies report it: no audit event.
CREATE TABLE outsider (
  workload    TEXT NOT NULL,
  way         INTEGER NOT NULL CHECK (way IN (0, 1)),
  address     TEXT NOT NULL,
  port        INTEGER NOT NULL,
  -- As in the message; 0: not known.
  protocol    INTEGER NOT NULL,
  first_at_ms INTEGER NOT NULL,
  last_at_ms  INTEGER NOT NULL,
  connections INTEGER NOT NULL,
  requests    INTEGER NOT NULL,
  bytes_in    INTEGER NOT NULL,
  bytes_out   INTEGER NOT NULL,
  denied      INTEGER NOT NULL,
  PRIMARY KEY (workload, way, address, port)
) STRICT, WITHOUT ROWID;
CREATE INDEX outsider_by_last ON outsider (last_at_ms, workload, address, port);
