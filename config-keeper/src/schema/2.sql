-- One table for each kind. What a row says stands in `body`, as the log has it; the other columns are read from it, typed,
-- for whoever looks with SQLite's own shell, and so that a body of the wrong shape cannot get in.
CREATE TABLE "pool" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'pool'),
    name TEXT AS (body ->> 'name') VIRTUAL CHECK (typeof(name) = 'text'),
    class TEXT AS (body ->> 'class') VIRTUAL CHECK (typeof(class) = 'text'),
    home TEXT AS (body ->> 'home') VIRTUAL CHECK (typeof(home) = 'text'),
    redundancy TEXT AS (body ->> 'redundancy') VIRTUAL CHECK (typeof(redundancy) = 'text'),
    disks TEXT AS (body ->> 'disks') VIRTUAL CHECK (typeof(disks) = 'text'),
    capacity_bytes INTEGER AS (body ->> '$.ready.capacity_bytes') VIRTUAL CHECK (typeof(capacity_bytes) IN ('integer', 'null')),
    extent_bytes INTEGER AS (body ->> '$.ready.extent_bytes') VIRTUAL CHECK (typeof(extent_bytes) IN ('integer', 'null'))
) STRICT, WITHOUT ROWID;
CREATE TABLE "volume" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'volume'),
    name TEXT AS (body ->> 'name') VIRTUAL CHECK (typeof(name) = 'text'),
    pool TEXT AS (body ->> 'pool') VIRTUAL CHECK (typeof(pool) = 'text'),
    size_bytes INTEGER AS (body ->> 'size_bytes') VIRTUAL CHECK (typeof(size_bytes) = 'integer'),
    serial TEXT AS (body ->> 'serial') VIRTUAL CHECK (typeof(serial) = 'text')
) STRICT, WITHOUT ROWID;
CREATE TABLE "host" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'host'),
    name TEXT AS (body ->> 'name') VIRTUAL CHECK (typeof(name) = 'text'),
    iqns TEXT AS (body ->> 'iqns') VIRTUAL CHECK (typeof(iqns) = 'text')
) STRICT, WITHOUT ROWID;
CREATE TABLE "mapping" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'mapping'),
    volume TEXT AS (body ->> 'volume') VIRTUAL CHECK (typeof(volume) = 'text'),
    host TEXT AS (body ->> 'host') VIRTUAL CHECK (typeof(host) = 'text'),
    lun INTEGER AS (body ->> 'lun') VIRTUAL CHECK (typeof(lun) = 'integer')
) STRICT, WITHOUT ROWID;
CREATE TABLE "address" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'address'),
    pool TEXT AS (body ->> 'pool') VIRTUAL CHECK (typeof(pool) = 'text'),
    cidr TEXT AS (body ->> 'cidr') VIRTUAL CHECK (typeof(cidr) = 'text')
) STRICT, WITHOUT ROWID;
CREATE TABLE "controller" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'controller'),
    name TEXT AS (body ->> 'name') VIRTUAL CHECK (typeof(name) = 'text'),
    controller TEXT AS (body ->> 'controller') VIRTUAL CHECK (typeof(controller) = 'text'),
    hostname TEXT AS (body ->> 'hostname') VIRTUAL CHECK (typeof(hostname) = 'text')
) STRICT, WITHOUT ROWID;
CREATE TABLE "network" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'network'),
    name TEXT AS (body ->> 'name') VIRTUAL CHECK (typeof(name) = 'text'),
    subnet TEXT AS (body ->> 'subnet') VIRTUAL CHECK (typeof(subnet) = 'text'),
    gateway TEXT AS (body ->> 'gateway') VIRTUAL,
    vlan INTEGER AS (body ->> 'vlan') VIRTUAL CHECK (typeof(vlan) IN ('integer', 'null'))
) STRICT, WITHOUT ROWID;
CREATE TABLE "port" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'port'),
    name TEXT AS (body ->> 'name') VIRTUAL CHECK (typeof(name) = 'text'),
    controller TEXT AS (body ->> 'controller') VIRTUAL CHECK (typeof(controller) = 'text'),
    interface TEXT AS (body ->> 'interface') VIRTUAL CHECK (typeof(interface) = 'text'),
    network TEXT AS (body ->> 'network') VIRTUAL,
    address TEXT AS (body ->> 'address') VIRTUAL
) STRICT, WITHOUT ROWID;
CREATE TABLE "disk" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'disk'),
    name TEXT AS (body ->> 'name') VIRTUAL CHECK (typeof(name) = 'text'),
    slot INTEGER AS (body ->> 'slot') VIRTUAL CHECK (typeof(slot) = 'integer'),
    role TEXT AS (body ->> 'role') VIRTUAL CHECK (typeof(role) = 'text'),
    pool TEXT AS (body ->> 'pool') VIRTUAL,
    serial TEXT AS (body ->> 'serial') VIRTUAL
) STRICT, WITHOUT ROWID;
CREATE TABLE "host_group" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'host_group'),
    name TEXT AS (body ->> 'name') VIRTUAL CHECK (typeof(name) = 'text'),
    hosts TEXT AS (body ->> 'hosts') VIRTUAL CHECK (typeof(hosts) = 'text')
) STRICT, WITHOUT ROWID;
CREATE TABLE "file_system" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'file_system'),
    name TEXT AS (body ->> 'name') VIRTUAL CHECK (typeof(name) = 'text'),
    pool TEXT AS (body ->> 'pool') VIRTUAL CHECK (typeof(pool) = 'text'),
    quota_bytes INTEGER AS (body ->> 'quota_bytes') VIRTUAL CHECK (typeof(quota_bytes) IN ('integer', 'null'))
) STRICT, WITHOUT ROWID;
CREATE TABLE "schedule" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'schedule'),
    name TEXT AS (body ->> 'name') VIRTUAL CHECK (typeof(name) = 'text'),
    every_minutes INTEGER AS (body ->> 'every_minutes') VIRTUAL CHECK (typeof(every_minutes) = 'integer'),
    keep INTEGER AS (body ->> 'keep') VIRTUAL CHECK (typeof(keep) = 'integer')
) STRICT, WITHOUT ROWID;
CREATE TABLE "snapshot" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'snapshot'),
    name TEXT AS (body ->> 'name') VIRTUAL CHECK (typeof(name) = 'text'),
    volume TEXT AS (body ->> 'volume') VIRTUAL,
    file_system TEXT AS (body ->> 'file_system') VIRTUAL,
    taken_ms INTEGER AS (body ->> 'taken_ms') VIRTUAL CHECK (typeof(taken_ms) = 'integer'),
    schedule TEXT AS (body ->> 'schedule') VIRTUAL
) STRICT, WITHOUT ROWID;
CREATE TABLE "access_role" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'access_role'),
    name TEXT AS (body ->> 'name') VIRTUAL CHECK (typeof(name) = 'text'),
    level TEXT AS (body ->> 'level') VIRTUAL CHECK (typeof(level) = 'text')
) STRICT, WITHOUT ROWID;
CREATE TABLE "user" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'user'),
    name TEXT AS (body ->> 'name') VIRTUAL CHECK (typeof(name) = 'text'),
    level TEXT AS (body ->> 'level') VIRTUAL CHECK (typeof(level) = 'text'),
    role TEXT AS (body ->> 'role') VIRTUAL
) STRICT, WITHOUT ROWID;
CREATE TABLE "share" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'share'),
    name TEXT AS (body ->> 'name') VIRTUAL CHECK (typeof(name) = 'text'),
    file_system TEXT AS (body ->> 'file_system') VIRTUAL CHECK (typeof(file_system) = 'text'),
    path TEXT AS (body ->> 'path') VIRTUAL CHECK (typeof(path) = 'text')
) STRICT, WITHOUT ROWID;
CREATE TABLE "token" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'token'),
    name TEXT AS (body ->> 'name') VIRTUAL CHECK (typeof(name) = 'text'),
    user TEXT AS (body ->> 'user') VIRTUAL CHECK (typeof(user) = 'text'),
    digest TEXT AS (body ->> 'digest') VIRTUAL CHECK (typeof(digest) = 'text'),
    expires_ms INTEGER AS (body ->> 'expires_ms') VIRTUAL CHECK (typeof(expires_ms) IN ('integer', 'null'))
) STRICT, WITHOUT ROWID;
CREATE TABLE "key" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'key'),
    name TEXT AS (body ->> 'name') VIRTUAL CHECK (typeof(name) = 'text'),
    purpose TEXT AS (body ->> 'purpose') VIRTUAL CHECK (typeof(purpose) = 'text'),
    user TEXT AS (body ->> 'user') VIRTUAL,
    host TEXT AS (body ->> 'host') VIRTUAL
) STRICT, WITHOUT ROWID;
CREATE TABLE "policy" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'policy'),
    name TEXT AS (body ->> 'name') VIRTUAL CHECK (typeof(name) = 'text'),
    sort TEXT AS (body ->> '$.rule.sort') VIRTUAL CHECK (typeof(sort) = 'text')
) STRICT, WITHOUT ROWID;
CREATE TABLE "settings" (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL CHECK (body ->> 'kind' = 'settings'),
    name TEXT AS (body ->> 'name') VIRTUAL CHECK (typeof(name) = 'text'),
    service TEXT AS (body ->> 'service') VIRTUAL CHECK (typeof(service) = 'text')
) STRICT, WITHOUT ROWID;
INSERT INTO "pool" (id, body) SELECT id, body FROM resource WHERE kind = 'pool';
INSERT INTO "volume" (id, body) SELECT id, body FROM resource WHERE kind = 'volume';
INSERT INTO "host" (id, body) SELECT id, body FROM resource WHERE kind = 'host';
INSERT INTO "mapping" (id, body) SELECT id, body FROM resource WHERE kind = 'mapping';
INSERT INTO "address" (id, body) SELECT id, body FROM resource WHERE kind = 'address';
DROP TABLE resource;
-- Without an index on actions: the keeper finds them in its memory, and each change would write a second page.
CREATE TABLE log_2 (
    idx INTEGER PRIMARY KEY CHECK (idx > 0), epoch INTEGER NOT NULL, session INTEGER NOT NULL,
    action_id BLOB NOT NULL, request BLOB NOT NULL, format INTEGER NOT NULL, rows TEXT NOT NULL,
    previous BLOB NOT NULL, hash BLOB NOT NULL
) STRICT;
INSERT INTO log_2 SELECT * FROM log;
DROP TABLE log;
ALTER TABLE log_2 RENAME TO log;
-- The tables are what the log says up to here.
INSERT INTO meta VALUES ('folded', (SELECT ifnull(max(idx), 0) FROM log));
