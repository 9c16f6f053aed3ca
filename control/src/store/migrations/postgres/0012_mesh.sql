-- The settings of the whole mesh: one document, or none.
CREATE TABLE mesh_settings (
  id            BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
  document      TEXT   NOT NULL,
  applied_at_ms BIGINT NOT NULL,
  applied_by    TEXT   NOT NULL,
  revision      BIGINT NOT NULL,
  -- The ownership label of its documents; empty: nobody said.
  managed_by    TEXT   NOT NULL
);
