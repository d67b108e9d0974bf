-- chunk_by_id: one chunk of a session
SELECT * FROM chunk WHERE session_id = :session_id AND id = :id;

-- chunk_insert: a new chunk
INSERT INTO chunk (session_id, id, format, content, size, caller, created_at)
VALUES (:session_id, :id, :format, :content, :size, :caller, :now)
RETURNING *;

-- chunk_latest: the newest chunks of a session, each clipped to some characters
SELECT id, session_id, format, substr(content, 1, :clip) AS content, size, created_at FROM chunk
WHERE session_id = :session_id ORDER BY seq DESC LIMIT :limit;

-- chunk_page: the chunks after one, oldest first, while those before them in the page are within some bytes
SELECT chunk.*, page.offered FROM (
    SELECT seq, sum(size) OVER (ORDER BY seq) - size AS earlier_bytes, count(*) OVER () AS offered
    FROM (SELECT seq, size FROM chunk WHERE session_id = :session_id AND seq > :after ORDER BY seq LIMIT :limit) AS part
) AS page
JOIN chunk ON chunk.seq = page.seq
WHERE page.earlier_bytes < :bytes
ORDER BY chunk.seq;
