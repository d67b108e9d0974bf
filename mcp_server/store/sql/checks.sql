-- check_not_indexed: how many records the search index does not know
SELECT (SELECT count(*) FROM session LEFT JOIN document ON kind = 'session' AND ref = seq WHERE ref IS NULL)
     + (SELECT count(*) FROM chunk LEFT JOIN document ON kind = 'conversation' AND ref = seq WHERE ref IS NULL)
     + (SELECT count(*) FROM memory LEFT JOIN document ON kind = 'memory' AND ref = seq WHERE ref IS NULL)
     + (SELECT count(*) FROM artifact LEFT JOIN document ON kind = 'artifact' AND ref = seq WHERE ref IS NULL)
     + (SELECT count(*) FROM task LEFT JOIN document ON kind = 'task' AND ref = number WHERE ref IS NULL) AS count;

-- check_indexed_nothing: how many entries of the search index have no record
SELECT count(*) AS count FROM document
WHERE NOT EXISTS (SELECT 1 FROM session WHERE document.kind = 'session' AND seq = ref)
  AND NOT EXISTS (SELECT 1 FROM chunk WHERE document.kind = 'conversation' AND seq = ref)
  AND NOT EXISTS (SELECT 1 FROM memory WHERE document.kind = 'memory' AND seq = ref)
  AND NOT EXISTS (SELECT 1 FROM artifact WHERE document.kind = 'artifact' AND seq = ref)
  AND NOT EXISTS (SELECT 1 FROM task WHERE document.kind = 'task' AND number = ref);

-- check_index_differs: how many rows the index and its table of contents do not share
SELECT (SELECT count(*) FROM document WHERE rowid NOT IN (SELECT id FROM search_text_docsize))
     + (SELECT count(*) FROM search_text_docsize WHERE id NOT IN (SELECT rowid FROM document)) AS count;

-- check_attempts_open: attempts that go on although their task does not
SELECT count(*) AS count FROM attempt JOIN task ON task.number = attempt.task_number
WHERE attempt.status = 'running' AND (task.status NOT IN ('running', 'cancelling')
                                      OR attempt.attempt < task.attempt);

-- check_ends_without_time: finished tasks without the time of their end
SELECT count(*) AS count FROM task WHERE status IN ('completed', 'failed', 'cancelled') AND finished_at IS NULL;

-- check_scheduled_without_time: scheduled tasks that no time will wake
SELECT count(*) AS count FROM task WHERE status = 'scheduled' AND run_after IS NULL;

-- check_fence_behind: by how much the counter is behind the highest number that was given out
SELECT max(0, coalesce((SELECT max(fence) FROM task), 0)
              - coalesce((SELECT value FROM counter WHERE name = 'fence'), 0)) AS count;

-- check_behind_conversation: queued tasks whose mark of their conversation does not fit
SELECT count(*) AS count FROM task JOIN task_place AS place USING (number)
WHERE task.behind_conversation <> place.behind_conversation;

-- check_behind_lane: queued tasks whose mark of their lane does not fit
SELECT count(*) AS count FROM task JOIN task_place AS place USING (number)
WHERE task.behind_lane <> place.behind_lane;

-- check_queue_length: agents whose queue is longer or shorter than it is said to be
SELECT count(*) AS count FROM (
    SELECT agent FROM (SELECT agent, count FROM queue_length
                       UNION ALL SELECT agent, -count(*) FROM task WHERE status = 'queued' GROUP BY agent)
    GROUP BY agent HAVING sum(count) <> 0);

-- check_asked_for_nothing: pending approvals whose task does not wait for an answer
SELECT count(*) AS count FROM approval JOIN task ON task.number = approval.task_number
WHERE approval.status = 'pending' AND task.status <> 'waiting_approval';

-- check_waits_for_nothing: tasks that wait for an answer to no question
SELECT count(*) AS count FROM task
WHERE status = 'waiting_approval'
  AND NOT EXISTS (SELECT 1 FROM approval WHERE task_number = number AND approval.status = 'pending');

-- repair_session_of_chunk: sessions that chunks belong to, made anew
INSERT INTO session (id, title, participants, metadata, status, request, caller, created_at, updated_at)
SELECT DISTINCT session_id, 'Recovered', '[]', '{}', 'active', '', '{"level":"desk","name":"doctor"}', :now, :now
FROM chunk WHERE session_id NOT IN (SELECT id FROM session);

-- repair_session_of_memory: sessions that memories belong to, made anew
INSERT INTO session (id, title, participants, metadata, status, request, caller, created_at, updated_at)
SELECT DISTINCT session_id, 'Recovered', '[]', '{}', 'active', '', '{"level":"desk","name":"doctor"}', :now, :now
FROM memory WHERE session_id NOT IN (SELECT id FROM session);

-- repair_session_of_task: sessions that tasks belong to, made anew
INSERT INTO session (id, title, participants, metadata, status, request, caller, created_at, updated_at)
SELECT DISTINCT session_id, 'Recovered', '[]', '{}', 'active', '', '{"level":"desk","name":"doctor"}', :now, :now
FROM task WHERE session_id NOT IN (SELECT id FROM session);

-- repair_session_of_artifact: sessions that artifacts belong to, made anew
INSERT INTO session (id, title, participants, metadata, status, request, caller, created_at, updated_at)
SELECT DISTINCT session_id, 'Recovered', '[]', '{}', 'active', '', '{"level":"desk","name":"doctor"}', :now, :now
FROM artifact WHERE session_id NOT IN (SELECT id FROM session);

-- repair_orphan_output: output of tasks that are gone
DELETE FROM output WHERE task_number NOT IN (SELECT number FROM task);

-- repair_orphan_attempts: attempts of tasks that are gone
DELETE FROM attempt WHERE task_number NOT IN (SELECT number FROM task);

-- repair_orphan_versions: earlier versions of memories that are gone
DELETE FROM memory_version WHERE memory_id NOT IN (SELECT id FROM memory);

-- repair_orphan_approvals: questions about tasks that are gone
DELETE FROM approval WHERE task_number NOT IN (SELECT number FROM task);

-- repair_orphan_states: what was remembered of conversations that are gone
DELETE FROM conversation_state WHERE conversation_id NOT IN (SELECT id FROM task);

-- repair_index_empty: take everything out of the search index
INSERT INTO search_text (search_text) VALUES ('delete-all');

-- repair_documents_gone: forget what is no record any more
DELETE FROM document
WHERE NOT EXISTS (SELECT 1 FROM session WHERE document.kind = 'session' AND seq = ref)
  AND NOT EXISTS (SELECT 1 FROM chunk WHERE document.kind = 'conversation' AND seq = ref)
  AND NOT EXISTS (SELECT 1 FROM memory WHERE document.kind = 'memory' AND seq = ref)
  AND NOT EXISTS (SELECT 1 FROM artifact WHERE document.kind = 'artifact' AND seq = ref)
  AND NOT EXISTS (SELECT 1 FROM task WHERE document.kind = 'task' AND number = ref);

-- repair_documents_new: name every record for the index
INSERT OR IGNORE INTO document (kind, ref)
SELECT 'session', seq FROM session UNION ALL SELECT 'conversation', seq FROM chunk
UNION ALL SELECT 'memory', seq FROM memory UNION ALL SELECT 'artifact', seq FROM artifact
UNION ALL SELECT 'task', number FROM task;

-- repair_index_fill: put every record into the search index
INSERT INTO search_text (rowid, title, body, facets) SELECT rowid, title, body, facets FROM document_text;

-- repair_attempts_open: nobody knows how they ended
UPDATE attempt SET status = 'interrupted', reason = 'interrupted', finished_at = :now
WHERE status = 'running' AND EXISTS (
    SELECT 1 FROM task WHERE number = task_number AND (task.status NOT IN ('running', 'cancelling')
                                                       OR attempt.attempt < task.attempt));

-- repair_ends_without_time: the last change was the end
UPDATE task SET finished_at = updated_at WHERE status IN ('completed', 'failed', 'cancelled') AND finished_at IS NULL;

-- repair_scheduled_without_time: they begin now
UPDATE task SET run_after = :now WHERE status = 'scheduled' AND run_after IS NULL;

-- repair_fence_behind: go on from the highest number
INSERT INTO counter (name, value) SELECT 'fence', coalesce(max(fence), 0) FROM task WHERE true
ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value);

-- repair_behind_conversation: mark anew what stands behind its conversation
UPDATE task SET behind_conversation = 1 - behind_conversation
WHERE behind_conversation <> (SELECT place.behind_conversation FROM task_place AS place
                              WHERE place.number = task.number);

-- repair_behind_lane: mark anew what stands behind another of its lane
UPDATE task SET behind_lane = 1 - behind_lane
WHERE behind_lane <> (SELECT place.behind_lane FROM task_place AS place WHERE place.number = task.number);

-- repair_queue_length: count anew; of an agent with nothing to do a zero stays
INSERT INTO queue_length (agent, count)
SELECT agent, sum(waiting) FROM (SELECT agent, 0 AS waiting FROM queue_length
                                 UNION ALL SELECT agent, 1 FROM task WHERE status = 'queued') GROUP BY agent
ON CONFLICT (agent) DO UPDATE SET count = excluded.count;

-- repair_asked_for_nothing: nobody needs to answer them
UPDATE approval SET status = 'withdrawn', decided_at = :now
WHERE status = 'pending' AND (SELECT task.status FROM task WHERE number = task_number) <> 'waiting_approval';

-- repair_waits_for_nothing: no answer means no
UPDATE task SET status = 'cancelled', reason = 'expired', finished_at = :now, updated_at = :now
WHERE status = 'waiting_approval'
  AND NOT EXISTS (SELECT 1 FROM approval WHERE task_number = number AND approval.status = 'pending');
