-- document_insert: name a record for the index
INSERT INTO document (kind, ref) VALUES (:kind, :ref);

-- document_index: put the texts of a record into the index
INSERT INTO search_text (rowid, title, body, facets)
SELECT view.rowid, view.title, view.body, view.facets
FROM document JOIN document_text AS view ON view.rowid = document.rowid
WHERE document.kind = :kind AND document.ref = :ref;

-- document_unindex: take the texts of a record out, while they are still what was put in
INSERT INTO search_text (search_text, rowid, title, body, facets)
SELECT 'delete', view.rowid, view.title, view.body, view.facets
FROM document JOIN document_text AS view ON view.rowid = document.rowid
WHERE document.kind = :kind AND document.ref = :ref;

-- document_delete: forget a record
DELETE FROM document WHERE kind = :kind AND ref = :ref;

-- document_unindex_session: take out everything that a session holds
INSERT INTO search_text (search_text, rowid, title, body, facets)
SELECT 'delete', view.rowid, view.title, view.body, view.facets
FROM document JOIN document_text AS view ON view.rowid = document.rowid
WHERE (document.kind = 'conversation' AND document.ref IN (SELECT seq FROM chunk WHERE session_id = :session_id))
   OR (document.kind = 'memory' AND document.ref IN (SELECT seq FROM memory WHERE session_id = :session_id))
   OR (document.kind = 'artifact' AND document.ref IN (SELECT seq FROM artifact WHERE session_id = :session_id))
   OR (document.kind = 'task' AND document.ref IN (SELECT number FROM task WHERE session_id = :session_id));

-- document_delete_session: forget everything that a session holds
DELETE FROM document
WHERE (kind = 'conversation' AND ref IN (SELECT seq FROM chunk WHERE session_id = :session_id))
   OR (kind = 'memory' AND ref IN (SELECT seq FROM memory WHERE session_id = :session_id))
   OR (kind = 'artifact' AND ref IN (SELECT seq FROM artifact WHERE session_id = :session_id))
   OR (kind = 'task' AND ref IN (SELECT number FROM task WHERE session_id = :session_id));

-- search_ranked: best first among the newest 2,000 that match and are no sessions
-- (by the join: bm25 counts the rows of every phrase of the match, and a word that names a kind is in all of them)
SELECT rowid, kind, ref, score
FROM (SELECT document.rowid AS rowid, document.kind AS kind, document.ref AS ref,
             bm25(search_text, 4.0, 1.0, 0.0) AS score
      FROM search_text CROSS JOIN document ON document.rowid = search_text.rowid
      WHERE search_text MATCH :match AND document.kind != 'session'
      ORDER BY search_text.rowid DESC LIMIT 2000) AS hit
ORDER BY score, rowid DESC LIMIT :limit OFFSET :offset;

-- search_is_common: whether so many match that only the newest of them are looked at
SELECT count(*) = 2000 AS is_common FROM (
    SELECT rowid FROM search_text WHERE search_text MATCH :match ORDER BY rowid DESC LIMIT 2000
) AS hit;

-- search_newest: those that match, newest first
SELECT document.rowid AS rowid, document.kind AS kind, document.ref AS ref
FROM (SELECT rowid FROM search_text
      WHERE search_text MATCH :match AND rowid < :before ORDER BY rowid DESC LIMIT :limit) AS hit
JOIN document ON document.rowid = hit.rowid
ORDER BY document.rowid DESC;

-- search_text_of: the beginnings of records' texts, for excerpts
SELECT rowid, title, substr(body, 1, :clip) AS body FROM document_text
WHERE rowid IN (SELECT value FROM json_each(:rowids));

-- search_conversation: what a list shows of chunks
SELECT seq AS ref, id, session_id, format AS type, created_at, size FROM chunk
WHERE seq IN (SELECT value FROM json_each(:refs));

-- search_memory: what a list shows of memories
SELECT seq AS ref, id, session_id, type, key, tags, version, created_at, updated_at FROM memory
WHERE seq IN (SELECT value FROM json_each(:refs));

-- search_artifact: what a list shows of artifacts
SELECT seq AS ref, id, session_id, task_id, name, type, encoding, size, created_at FROM artifact
WHERE seq IN (SELECT value FROM json_each(:refs));

-- search_task: what a list shows of tasks
SELECT number AS ref, id, number, session_id, agent, task_type AS type, status, reason, created_at, finished_at
FROM task WHERE number IN (SELECT value FROM json_each(:refs));
