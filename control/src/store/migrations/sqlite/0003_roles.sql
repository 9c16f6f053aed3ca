-- Who may do what on what. What was the one admin role is the role admin on everything.
-- `admin` is read by the version before this one; a later migration drops it.

CREATE TABLE role_binding (
  -- A SPIFFE ID, or `unix:uid=N`.
  subject       TEXT    NOT NULL,
  role          TEXT    NOT NULL CHECK (role IN ('viewer', 'operator', 'approver', 'admin')),
  -- A SPIFFE ID, one that ends in `/*` for all below it, or `everything`.
  scope         TEXT    NOT NULL,
  granted_at_ms INTEGER NOT NULL,
  granted_by    TEXT    NOT NULL,
  PRIMARY KEY (subject, scope, role)
) STRICT, WITHOUT ROWID;

INSERT INTO role_binding (subject, role, scope, granted_at_ms, granted_by)
  SELECT spiffe_id, 'admin', 'everything', granted_at_ms, granted_by FROM admin;
