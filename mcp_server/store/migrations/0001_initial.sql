CREATE TABLE migration (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at INTEGER NOT NULL
);

CREATE TABLE counter (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
);

CREATE TABLE session (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    participants TEXT NOT NULL,
    metadata TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('active', 'paused', 'completed', 'archived')),
    request TEXT NOT NULL,
    caller TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);
CREATE INDEX session_by_status ON session (status, seq);

CREATE TABLE chunk (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL REFERENCES session (id) ON DELETE CASCADE,
    id TEXT NOT NULL,
    format TEXT,
    content TEXT NOT NULL,
    size INTEGER NOT NULL,
    caller TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (session_id, id)
);
CREATE INDEX chunk_by_session ON chunk (session_id, seq);

CREATE TABLE memory (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    session_id TEXT REFERENCES session (id) ON DELETE CASCADE,
    type TEXT NOT NULL,
    key TEXT,
    content TEXT NOT NULL,
    tags TEXT NOT NULL,
    version INTEGER NOT NULL,
    caller TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);
CREATE INDEX memory_by_session ON memory (session_id, seq);
CREATE UNIQUE INDEX memory_by_key ON memory (coalesce(session_id, ''), key) WHERE key IS NOT NULL;

CREATE TABLE memory_version (
    memory_id TEXT NOT NULL REFERENCES memory (id) ON DELETE CASCADE,
    version INTEGER NOT NULL,
    type TEXT NOT NULL,
    content TEXT NOT NULL,
    tags TEXT NOT NULL,
    caller TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (memory_id, version)
) WITHOUT ROWID;

CREATE TABLE task (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    session_id TEXT REFERENCES session (id) ON DELETE CASCADE,
    agent TEXT NOT NULL,
    task_type TEXT,
    description TEXT NOT NULL,
    params TEXT NOT NULL,
    workspace TEXT,
    cwd TEXT,
    priority INTEGER NOT NULL,
    lane TEXT,
    status TEXT NOT NULL CHECK (status IN ('scheduled', 'waiting_approval', 'queued', 'running', 'cancelling',
                                           'completed', 'failed', 'cancelled')),
    reason TEXT,
    run_after INTEGER,
    timeout_seconds REAL NOT NULL,
    max_attempts INTEGER NOT NULL,
    attempts_allowed INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    fence INTEGER NOT NULL DEFAULT 0,
    parent_id TEXT,
    conversation_id TEXT NOT NULL,
    result TEXT,
    summary TEXT,
    request TEXT NOT NULL,
    caller TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    updated_at INTEGER NOT NULL
);
CREATE INDEX task_queue ON task (agent, priority DESC, number) WHERE status = 'queued';
CREATE INDEX task_scheduled ON task (run_after) WHERE status = 'scheduled';
CREATE INDEX task_running ON task (status) WHERE status IN ('running', 'cancelling');
CREATE INDEX task_lane_busy ON task (lane) WHERE lane IS NOT NULL AND status IN ('running', 'cancelling');
CREATE INDEX task_by_status ON task (status, number, agent);
CREATE INDEX task_by_agent ON task (agent, number);
CREATE INDEX task_by_session ON task (session_id, number) WHERE session_id IS NOT NULL;
CREATE INDEX task_by_lane ON task (lane, number) WHERE lane IS NOT NULL;
CREATE INDEX task_by_conversation ON task (conversation_id, number);

CREATE TABLE attempt (
    task_number INTEGER NOT NULL REFERENCES task (number) ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('running', 'completed', 'failed', 'cancelled', 'interrupted')),
    reason TEXT,
    returncode INTEGER,
    details TEXT NOT NULL DEFAULT '{}',
    started_at INTEGER NOT NULL,
    finished_at INTEGER,
    PRIMARY KEY (task_number, attempt)
) WITHOUT ROWID;

CREATE TABLE output (
    task_number INTEGER NOT NULL REFERENCES task (number) ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    stream TEXT NOT NULL CHECK (stream IN ('stdout', 'stderr')),
    position INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (task_number, attempt, stream, position)
) WITHOUT ROWID;

CREATE TABLE artifact (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    session_id TEXT REFERENCES session (id) ON DELETE CASCADE,
    task_id TEXT,
    name TEXT NOT NULL,
    type TEXT NOT NULL,
    encoding TEXT NOT NULL CHECK (encoding IN ('text', 'base64')),
    content BLOB NOT NULL,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    caller TEXT NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE INDEX artifact_by_session ON artifact (session_id, seq);

CREATE TABLE event (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    session_id TEXT,
    data TEXT NOT NULL,
    caller TEXT
);
CREATE INDEX event_by_subject ON event (subject, sequence);

CREATE TABLE api_key (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    scopes TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
);
CREATE UNIQUE INDEX api_key_by_name ON api_key (name) WHERE revoked_at IS NULL;

CREATE TABLE delivery (
    key_id TEXT NOT NULL,
    id TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    status INTEGER,
    answer TEXT,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (key_id, id)
) WITHOUT ROWID;
CREATE INDEX delivery_by_age ON delivery (created_at);

-- Full-text search. `document` maps a row of the index to its record; the texts themselves are read
-- through the view, so that nothing is kept twice. Of JSON, the names and values are indexed as they read: in its text,
-- a word after a line break would begin with the n of \n.
CREATE TABLE document (
    rowid INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    ref INTEGER NOT NULL,
    UNIQUE (kind, ref)
);
CREATE VIEW document_text AS
SELECT document.rowid AS rowid,
       CASE document.kind
           WHEN 'session' THEN session.title
           WHEN 'memory' THEN coalesce(memory.key, '')
           WHEN 'artifact' THEN artifact.name
           WHEN 'task' THEN task.description
           ELSE '' END AS title,
       CASE document.kind
           WHEN 'session' THEN session.participants
           WHEN 'conversation' THEN chunk.content
           WHEN 'memory' THEN coalesce((SELECT group_concat(iif(typeof(part.key) = 'text', part.key || ' ', '')
                                                            || coalesce(part.atom, ''), ' ')
                                        FROM json_tree(memory.content) AS part), '')
               || coalesce((SELECT ' ' || group_concat(tag.value, ' ') FROM json_each(memory.tags) AS tag), '')
           WHEN 'artifact' THEN CASE artifact.encoding WHEN 'text' THEN CAST(artifact.content AS TEXT) ELSE '' END
           WHEN 'task' THEN coalesce(task.summary, '')
           ELSE '' END AS body,
       'k' || document.kind
           || coalesce(' s' || hex(coalesce(chunk.session_id, memory.session_id, artifact.session_id,
                                            task.session_id)), '')
           || coalesce(' y' || hex(coalesce(memory.type, artifact.type, task.task_type, chunk.format)), '')
           || coalesce((SELECT ' ' || group_concat('t' || hex(tag.value), ' ') FROM json_each(memory.tags) AS tag), '')
           AS facets
FROM document
LEFT JOIN session ON document.kind = 'session' AND session.seq = document.ref
LEFT JOIN chunk ON document.kind = 'conversation' AND chunk.seq = document.ref
LEFT JOIN memory ON document.kind = 'memory' AND memory.seq = document.ref
LEFT JOIN artifact ON document.kind = 'artifact' AND artifact.seq = document.ref
LEFT JOIN task ON document.kind = 'task' AND task.number = document.ref;
CREATE VIRTUAL TABLE search_text USING fts5 (
    title, body, facets, content = 'document_text', content_rowid = 'rowid', tokenize = 'unicode61 remove_diacritics 2'
);
