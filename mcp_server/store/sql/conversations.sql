-- chunk_by_id: one chunk of a session
SELECT * FROM chunk WHERE session_id = :session_id AND id = :id;

-- chunk_insert: a new chunk
INSERT INTO chunk (session_id, id, format, content, size, caller, created_at)
VALUES (:session_id, :id, :format, :content, :size, :caller, :now)
RETURNING *;

-- chunk_latest: the newest chunks of a session, each clipped to some characters
SELECT id, session_id, format, substr(content, 1, :clip) AS content, size, created_at FROM chunk
WHERE session_id = :session_id ORDER BY seq DESC LIMIT :limit;
