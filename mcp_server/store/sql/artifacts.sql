-- artifact_by_id: one artifact
SELECT * FROM artifact WHERE id = :id;

-- artifact_insert: a new artifact
INSERT INTO artifact (id, session_id, task_id, name, type, encoding, content, size, sha256, caller, created_at)
VALUES (:id, :session_id, :task_id, :name, :type, :encoding, :content, :size, :sha256, :caller, :now)
RETURNING *;

-- artifact_delete: an artifact
DELETE FROM artifact WHERE id = :id;

-- artifact_latest: the newest artifacts of a session, without their content
SELECT id, session_id, task_id, name, type, encoding, size, sha256, created_at FROM artifact
WHERE session_id = :session_id ORDER BY seq DESC LIMIT :limit;
