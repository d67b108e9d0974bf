-- What a coding agent does now, in a few words ("editing src/app.py").
ALTER TABLE task ADD COLUMN progress TEXT;

-- It was allowed because what it changes stays in a place of its own, so only there may it run.
ALTER TABLE task ADD COLUMN contained INTEGER NOT NULL DEFAULT 0;

-- How far the records of an attempt are read: none is told of twice.
ALTER TABLE attempt ADD COLUMN records_read INTEGER NOT NULL DEFAULT 0;

-- What an agent must remember of a conversation to go on with it: its own name for it, the clone, the branch.
-- `conversation_id` is the id of the conversation's first task.
CREATE TABLE conversation_state (
    conversation_id TEXT PRIMARY KEY REFERENCES task (id) ON DELETE CASCADE,
    agent TEXT NOT NULL,
    state TEXT NOT NULL,
    updated_at INTEGER NOT NULL
) WITHOUT ROWID;

-- What the user is asked. `about`: a task before it begins, a tool that an agent wants to use, a budget that is used up.
-- `hash` is the fingerprint of `action`, and what is approved is exactly that. `lapsed_at`: since then it holds no more.
CREATE TABLE approval (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    task_number INTEGER NOT NULL REFERENCES task (number) ON DELETE CASCADE,
    about TEXT NOT NULL CHECK (about IN ('task', 'tool', 'budget')),
    status TEXT NOT NULL CHECK (status IN ('pending', 'approved', 'denied', 'expired', 'withdrawn')),
    action TEXT NOT NULL,
    hash TEXT NOT NULL,
    say TEXT NOT NULL,
    diff TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    decided_at INTEGER,
    decided_by TEXT,
    lapsed_at INTEGER
);
CREATE INDEX approval_by_task ON approval (task_number, seq);
CREATE INDEX approval_pending ON approval (expires_at) WHERE status = 'pending';
CREATE INDEX approval_waiting ON approval (seq) WHERE status = 'pending';
-- A task asks one thing at a time.
CREATE UNIQUE INDEX approval_of_task ON approval (task_number) WHERE status = 'pending';
