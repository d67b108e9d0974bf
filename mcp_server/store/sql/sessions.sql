-- session_by_id: one session
SELECT * FROM session WHERE id = :id;

-- session_insert: a new session
INSERT INTO session (id, title, participants, metadata, status, request, caller, created_at, updated_at)
VALUES (:id, :title, :participants, :metadata, 'active', :request, :caller, :now, :now)
RETURNING *;

-- session_update: change what is given
UPDATE session
SET title = :title, participants = :participants, metadata = :metadata, status = :status, updated_at = :now
WHERE id = :id
RETURNING *;

-- session_touch: something was added to it
UPDATE session SET updated_at = :now WHERE id = :id;

-- session_delete: the session; what it holds goes with it
DELETE FROM session WHERE id = :id;

-- session_list: newest first, archived ones only on request
SELECT * FROM session
WHERE seq < :before AND (:archived OR status != 'archived')
ORDER BY seq DESC LIMIT :limit;

-- session_list_status: newest first, of one status
SELECT * FROM session WHERE status = :status AND seq < :before ORDER BY seq DESC LIMIT :limit;

-- session_list_found: those whose title or participants match, newest first
SELECT session.* FROM (
    SELECT rowid FROM search_text WHERE search_text MATCH :match ORDER BY rowid DESC LIMIT 2000
) AS hit
JOIN document ON document.rowid = hit.rowid
JOIN session ON session.seq = document.ref
WHERE session.seq < :before AND (:status IS NULL OR session.status = :status)
  AND (:archived OR session.status != 'archived')
ORDER BY session.seq DESC LIMIT :limit;

-- session_counts: how much a session holds
SELECT (SELECT count(*) FROM chunk WHERE session_id = :id) AS chunks,
       (SELECT count(*) FROM memory WHERE session_id = :id) AS memories,
       (SELECT count(*) FROM artifact WHERE session_id = :id) AS artifacts,
       (SELECT count(*) FROM task WHERE session_id = :id) AS tasks,
       (SELECT count(*) FROM task WHERE session_id = :id
        AND status NOT IN ('completed', 'failed', 'cancelled')) AS open_tasks;
