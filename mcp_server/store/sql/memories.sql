-- memory_by_id: one memory, in its current version
SELECT * FROM memory WHERE id = :id;

-- memory_by_key: the memory that has a key in a session, or outside all sessions
SELECT * FROM memory WHERE coalesce(session_id, '') = coalesce(:session_id, '') AND key = :key;

-- memory_insert: a new memory
INSERT INTO memory (id, session_id, type, key, content, tags, version, caller, created_at, updated_at)
VALUES (:id, :session_id, :type, :key, :content, :tags, 1, :caller, :now, :now)
RETURNING *;

-- memory_supersede: a new version; the old one is in memory_version
UPDATE memory
SET type = :type, content = :content, tags = :tags, version = version + 1, caller = :caller, updated_at = :now
WHERE id = :id AND version = :version
RETURNING *;

-- memory_keep_version: the current version, kept for good
INSERT INTO memory_version (memory_id, version, type, content, tags, caller, created_at)
SELECT id, version, type, content, tags, caller, updated_at FROM memory WHERE id = :id;

-- memory_versions: earlier versions, newest first
SELECT version, type, content, tags, created_at FROM memory_version
WHERE memory_id = :memory_id ORDER BY version DESC LIMIT :limit;

-- memory_delete: a memory with its versions
DELETE FROM memory WHERE id = :id;

-- memory_latest: the newest memories of a session
SELECT * FROM memory WHERE session_id = :session_id ORDER BY seq DESC LIMIT :limit;
