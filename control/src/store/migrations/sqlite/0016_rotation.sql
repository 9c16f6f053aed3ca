-- Authorities one after another. `active` says which one of a kind signs; of the others this says the rest. Empty: one
-- that is not active is retiring.
ALTER TABLE authority ADD COLUMN phase TEXT NOT NULL DEFAULT '' CHECK (phase IN ('', 'prepared', 'retiring', 'removed'));
ALTER TABLE authority ADD COLUMN phase_at_ms INTEGER NOT NULL DEFAULT 0;
-- The root that signed an intermediate.
ALTER TABLE authority ADD COLUMN issuer TEXT;
-- Of a root: its key, certified by the root whose place it took.
ALTER TABLE authority ADD COLUMN cross_certificate BLOB;
-- The revision with which a root changed the trust bundle last.
ALTER TABLE authority ADD COLUMN announced INTEGER NOT NULL DEFAULT 0;
UPDATE authority SET phase_at_ms = created_at_ms;
UPDATE authority SET issuer = (SELECT root.id FROM authority AS root WHERE root.kind = 'root') WHERE kind = 'intermediate';
CREATE INDEX certificate_by_authority ON certificate (authority, not_after_ms);
CREATE INDEX authority_by_issuer ON authority (issuer);

-- Whether a replica publishes every root of the bundle.
ALTER TABLE replica ADD COLUMN rotates INTEGER NOT NULL DEFAULT 0;
