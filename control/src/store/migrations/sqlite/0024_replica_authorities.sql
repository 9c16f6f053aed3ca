-- The replica that signs with an intermediate. Empty: whoever has none of its own; and a root.
ALTER TABLE authority ADD COLUMN replica TEXT NOT NULL DEFAULT '';
DROP INDEX one_active_authority;
CREATE UNIQUE INDEX one_active_authority ON authority (kind, replica) WHERE active = 1;

-- The authority that signed the SVID by which a replica shows itself. Empty: it did not say.
ALTER TABLE replica ADD COLUMN shown_by TEXT NOT NULL DEFAULT '';
