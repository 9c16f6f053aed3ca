-- Of an authority whose key somebody else may have: from then on nobody is believed by it. NULL: none.
ALTER TABLE authority ADD COLUMN distrusted_at_ms INTEGER;
