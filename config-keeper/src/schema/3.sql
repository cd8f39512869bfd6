-- What the first entries of the log amounted to when they were let go: the log begins behind these rows.
CREATE TABLE compacted (
    kind TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;
