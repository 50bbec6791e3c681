-- Model servers that were added at run time, beside those of the configuration, which is not stored.
CREATE TABLE model_servers (
    name       TEXT PRIMARY KEY,
    url        TEXT NOT NULL,
    slots      INTEGER NOT NULL CHECK (slots > 0),
    -- Microseconds since the epoch.
    created_at INTEGER NOT NULL
) STRICT;
