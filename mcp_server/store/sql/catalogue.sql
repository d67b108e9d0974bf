-- catalogue_session: what a menu shows of sessions, newest first; archived ones are put away
SELECT seq, id, title, status, updated_at FROM session
WHERE seq < :before AND status != 'archived' ORDER BY seq DESC LIMIT :limit;

-- catalogue_task: what a menu shows of tasks, newest first, with how much is kept of what the last attempt wrote
SELECT number AS seq, id, number, agent, status, substr(description, 1, :clip) AS description, updated_at,
       coalesce((SELECT position + length(data) FROM output
                 WHERE task_number = task.number AND attempt = task.attempt AND stream = 'stdout'
                 ORDER BY position DESC LIMIT 1), 0) AS output_size
FROM task WHERE number < :before ORDER BY number DESC LIMIT :limit;

-- catalogue_memory: what a menu shows of memories, newest first
SELECT seq, id, type, key, substr(content, 1, :clip) AS content, updated_at FROM memory
WHERE seq < :before ORDER BY seq DESC LIMIT :limit;

-- catalogue_artifact: what a menu shows of artifacts, newest first
SELECT seq, id, name, type, encoding, size, created_at FROM artifact
WHERE seq < :before ORDER BY seq DESC LIMIT :limit;

-- known_session: whether there is such a session
SELECT id FROM session WHERE id = :id;

-- known_memory: whether there is such a memory
SELECT id FROM memory WHERE id = :id;

-- known_artifact: whether there is such an artifact
SELECT id FROM artifact WHERE id = :id;

-- complete_session: of the newest sessions, those whose id or a word of whose title begins so
SELECT seq, id FROM session
WHERE seq > (SELECT max(seq) FROM session) - :window AND status != 'archived'
  AND (id LIKE :begins ESCAPE '\' OR ' ' || title LIKE :has_word ESCAPE '\')
ORDER BY seq DESC LIMIT :limit;

-- complete_task: of the newest tasks, those whose id begins so
SELECT number AS seq, id FROM task
WHERE number > (SELECT max(number) FROM task) - :window AND id LIKE :begins ESCAPE '\'
ORDER BY number DESC LIMIT :limit;

-- complete_memory: of the newest memories, those whose id or key begins so
SELECT seq, id FROM memory
WHERE seq > (SELECT max(seq) FROM memory) - :window
  AND (id LIKE :begins ESCAPE '\' OR key LIKE :begins ESCAPE '\')
ORDER BY seq DESC LIMIT :limit;

-- complete_artifact: of the newest artifacts, those whose id or name begins so
SELECT seq, id FROM artifact
WHERE seq > (SELECT max(seq) FROM artifact) - :window
  AND (id LIKE :begins ESCAPE '\' OR name LIKE :begins ESCAPE '\')
ORDER BY seq DESC LIMIT :limit;

-- complete_session_ids: of all sessions, some whose id begins so
SELECT seq, id FROM session WHERE id >= :begins AND id < :beyond AND status != 'archived' ORDER BY id LIMIT :limit;

-- complete_task_ids: of all tasks, some whose id begins so
SELECT number AS seq, id FROM task WHERE id >= :begins AND id < :beyond ORDER BY id LIMIT :limit;

-- complete_memory_ids: of all memories, some whose id begins so
SELECT seq, id FROM memory WHERE id >= :begins AND id < :beyond ORDER BY id LIMIT :limit;

-- complete_artifact_ids: of all artifacts, some whose id begins so
SELECT seq, id FROM artifact WHERE id >= :begins AND id < :beyond ORDER BY id LIMIT :limit;

-- complete_task_numbers: the tasks of a range of numbers, newest first
SELECT number FROM task WHERE number >= :number AND number < :beyond ORDER BY number DESC LIMIT :limit;
