-- An address without identity at one end of connections: it calls a workload in plaintext (way 0), or a workload calls
-- it as an unknown destination (way 1). Operational, as proxies report it: no audit event.
CREATE TABLE outsider (
  workload    TEXT COLLATE "C" NOT NULL,
  way         BIGINT NOT NULL CHECK (way IN (0, 1)),
  address     TEXT COLLATE "C" NOT NULL,
  port        BIGINT NOT NULL,
  -- As in the message; 0: not known.
  protocol    BIGINT NOT NULL,
  first_at_ms BIGINT NOT NULL,
  last_at_ms  BIGINT NOT NULL,
  connections BIGINT NOT NULL,
  requests    BIGINT NOT NULL,
  bytes_in    BIGINT NOT NULL,
  bytes_out   BIGINT NOT NULL,
  denied      BIGINT NOT NULL,
  PRIMARY KEY (workload, way, address, port)
);
CREATE INDEX outsider_by_last ON outsider (last_at_ms, workload, address, port);
