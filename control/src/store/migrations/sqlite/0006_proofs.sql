-- The key that a proof which is good with one only was used with first. Forgotten when the proof has ended.
CREATE TABLE proof_use (
  -- What was signed, not the signature: that may have other forms.
  proof_sha256 BLOB NOT NULL PRIMARY KEY,
  spki_sha256  BLOB NOT NULL,
  ends_at_ms   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX proof_use_by_end ON proof_use (ends_at_ms);
