-- The policy documents that the proxy of each session reads.
ALTER TABLE session ADD COLUMN policy_schema INTEGER NOT NULL DEFAULT 1;
