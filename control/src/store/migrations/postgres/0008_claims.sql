-- Which of the streams of an instance is the newest: a slow replica must not write over what a later one wrote.
ALTER TABLE session ADD COLUMN claim BIGINT NOT NULL DEFAULT 0;
