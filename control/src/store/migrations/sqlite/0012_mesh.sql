-- The settings of the whole mesh: one document, or none.
CREATE TABLE mesh_settings (
  id            INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
  document      TEXT    NOT NULL,
  applied_at_ms INTEGER NOT NULL,
  applied_by    TEXT    NOT NULL,
  revision      INTEGER NOT NULL,
  -- The ownership label of its documents; empty: nobody said.
  managed_by    TEXT    NOT NULL
) STRICT;
