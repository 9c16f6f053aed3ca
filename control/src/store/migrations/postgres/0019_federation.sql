-- Other trust domains whose identities are believed, each with its bundle as it was told last.
CREATE TABLE federation (
  trust_domain    TEXT    NOT NULL PRIMARY KEY,
  url             TEXT    NOT NULL,
  -- https_web or https_spiffe.
  profile         TEXT    NOT NULL,
  -- Who answers there: https_spiffe only.
  endpoint_id     TEXT,
  -- PEM of who vouches for it, if not the system's authorities: https_web only.
  web_authorities TEXT,
  -- JWKS; none: nobody is believed.
  bundle          TEXT,
  -- The greatest that was told.
  sequence        BIGINT NOT NULL,
  refresh_hint_s  BIGINT,
  fetched_at_ms   BIGINT,
  due_at_ms       BIGINT NOT NULL,
  -- In a row.
  failures        BIGINT NOT NULL,
  error           TEXT,
  created_at_ms   BIGINT NOT NULL,
  created_by      TEXT    NOT NULL
);
