-- task_by_id: one task
SELECT * FROM task WHERE id = :id;

-- task_by_number: one task by its number
SELECT * FROM task WHERE number = :number;

-- task_insert: a new task
INSERT INTO task (id, session_id, agent, task_type, description, params, workspace, cwd, priority, lane, status, reason,
                  run_after, timeout_seconds, max_attempts, attempts_allowed, parent_id, conversation_id, request,
                  contained, caller, created_at, updated_at)
VALUES (:id, :session_id, :agent, :task_type, :description, :params, :workspace, :cwd, :priority, :lane, :status,
        :reason, :run_after, :timeout_seconds, :max_attempts, :max_attempts, :parent_id, :conversation_id, :request,
        :contained, :caller, :now, :now)
RETURNING *;

-- task_move: the one change of state; the old state stands in the WHERE
UPDATE task
SET status = :to_status, reason = :reason, run_after = :run_after, updated_at = :now,
    progress = CASE WHEN :to_status = 'cancelling' THEN progress END,
    finished_at = CASE WHEN :final THEN :now ELSE NULL END
WHERE number = :number AND status = :from_status AND (:fence IS NULL OR fence = :fence)
RETURNING *;

-- task_claim: from queued to running, as the next attempt under a new fencing number
UPDATE task
SET status = 'running', reason = NULL, attempt = attempt + 1, fence = :fence, updated_at = :now,
    started_at = coalesce(started_at, :now), result = NULL
WHERE number = :number AND status = 'queued'
RETURNING *;

-- task_adopt: the running attempt goes on under a new fencing number
UPDATE task SET fence = :fence, updated_at = :now
WHERE number = :number AND status IN ('running', 'cancelling')
RETURNING *;

-- task_result: what came of it, written with the end; only by the attempt that holds the fence
UPDATE task SET result = :result, summary = :summary WHERE number = :number AND fence = :fence
RETURNING *;

-- task_set_queue: another priority or lane
UPDATE task SET priority = :priority, lane = :lane, updated_at = :now WHERE number = :number
RETURNING *;

-- task_allow_attempts: more attempts, for a retry by hand
UPDATE task SET attempts_allowed = attempt + max_attempts, contained = :contained WHERE number = :number;

-- task_allow_pause: an attempt that ended in a pause counts for none
UPDATE task SET attempts_allowed = attempts_allowed + 1 WHERE number = :number AND fence = :fence;

-- task_progress: what the agent does now
UPDATE task SET progress = :progress, updated_at = :now WHERE number = :number AND fence = :fence;

-- task_queued_of: the queued tasks of one agent whose reason is not the given one, oldest first
SELECT number FROM task INDEXED BY task_by_status
WHERE status = 'queued' AND agent = :agent AND number > :after
  AND (reason IS 'agent_not_installed') <> (:reason IS 'agent_not_installed')
ORDER BY number LIMIT :limit;

-- task_set_reason: why a queued task waits
UPDATE task SET reason = :reason, updated_at = :now WHERE number = :number AND status = 'queued'
RETURNING *;

-- task_refund_attempt: an attempt that never began costs none
UPDATE task SET attempt = attempt - 1 WHERE number = :number AND fence = :fence;

-- task_heads: the next task of one agent whose lane is free, and whose conversation has come to it
-- Of each lane the index holds the first only: no more are passed over than lanes are busy. One that waits for approval
-- holds up its conversation but not its lane: nothing of it runs, and an answer may take days.
SELECT number, priority FROM task INDEXED BY task_front
WHERE status = 'queued' AND behind_conversation = 0 AND behind_lane = 0 AND agent = :agent
  AND (lane IS NULL OR NOT EXISTS (SELECT 1 FROM task AS busy INDEXED BY task_lane_busy
                                   WHERE busy.lane = task.lane AND busy.lane IS NOT NULL
                                   AND busy.status IN ('running', 'cancelling')))
ORDER BY priority DESC, number LIMIT 1;

-- task_due: scheduled tasks whose time has come
SELECT number FROM task INDEXED BY task_scheduled
WHERE status = 'scheduled' AND run_after <= :now ORDER BY run_after LIMIT 1000;

-- task_next_due: when the next scheduled task is due
SELECT min(run_after) AS run_after FROM task INDEXED BY task_scheduled WHERE status = 'scheduled';

-- task_running: what was running when the server last stopped, or is now
SELECT * FROM task WHERE status IN ('running', 'cancelling') ORDER BY number;

-- task_counts: how many tasks of each agent are running and waiting
SELECT agent, 'queued' AS status, count FROM queue_length WHERE count > 0
UNION ALL
SELECT agent, status, count(*) FROM task INDEXED BY task_running
WHERE status IN ('running', 'cancelling') GROUP BY agent, status;

-- task_list: newest first
SELECT * FROM task WHERE number < :before ORDER BY number DESC LIMIT :limit;

-- task_list_status: newest first, of one status
SELECT * FROM task INDEXED BY task_by_status
WHERE status = :status AND number < :before AND (:agent IS NULL OR agent = :agent)
  AND (:session_id IS NULL OR session_id = :session_id) AND (:lane IS NULL OR lane = :lane)
ORDER BY number DESC LIMIT :limit;

-- task_list_session: newest first, of one session
SELECT * FROM task INDEXED BY task_by_session
WHERE session_id = :session_id AND number < :before AND (:agent IS NULL OR agent = :agent)
  AND (:status IS NULL OR status = :status) AND (:lane IS NULL OR lane = :lane)
ORDER BY number DESC LIMIT :limit;

-- task_list_lane: newest first, of one lane
SELECT * FROM task INDEXED BY task_by_lane
WHERE lane = :lane AND number < :before AND (:agent IS NULL OR agent = :agent)
  AND (:status IS NULL OR status = :status)
ORDER BY number DESC LIMIT :limit;

-- task_list_agent: newest first, of one agent
SELECT * FROM task INDEXED BY task_by_agent
WHERE agent = :agent AND number < :before
ORDER BY number DESC LIMIT :limit;

-- task_list_found: those whose text matches, newest first
SELECT task.* FROM (
    SELECT rowid FROM search_text WHERE search_text MATCH :match ORDER BY rowid DESC LIMIT 2000
) AS hit
JOIN document ON document.rowid = hit.rowid
JOIN task ON task.number = document.ref
WHERE task.number < :before AND (:status IS NULL OR task.status = :status)
  AND (:agent IS NULL OR task.agent = :agent) AND (:session_id IS NULL OR task.session_id = :session_id)
  AND (:lane IS NULL OR task.lane = :lane)
ORDER BY task.number DESC LIMIT :limit;

-- task_conversation: the tasks of one conversation that ended and had begun, oldest first
SELECT description, summary FROM task
WHERE conversation_id = :conversation_id AND number < :number AND attempt > 0
  AND status IN ('completed', 'failed', 'cancelled')
ORDER BY number;

-- attempt_insert: an attempt begins
INSERT INTO attempt (task_number, attempt, fence, status, started_at)
VALUES (:task_number, :attempt, :fence, 'running', :now);

-- attempt_finish: an attempt ended
UPDATE attempt
SET status = :status, reason = :reason, returncode = :returncode, details = :details, finished_at = :now
WHERE task_number = :task_number AND attempt = :attempt AND status = 'running';

-- attempt_delete: an attempt that never began
DELETE FROM attempt WHERE task_number = :task_number AND attempt = :attempt;

-- attempt_records_read: the records up to `end` are told of; once, and by the attempt that holds the fence
UPDATE attempt SET records_read = :end
WHERE task_number = :task_number AND attempt = :attempt AND records_read = :start AND status = 'running'
  AND EXISTS (SELECT 1 FROM task WHERE number = :task_number AND fence = :fence);

-- attempt_records: up to where the records of an attempt are told of
SELECT records_read FROM attempt WHERE task_number = :task_number AND attempt = :attempt;

-- attempt_before: whether an earlier attempt of a task had begun to work
SELECT 1 AS begun FROM attempt WHERE task_number = :task_number AND attempt < :attempt AND records_read > 0 LIMIT 1;

-- attempt_quota_pauses: how many attempts in a row, up to the given one, found the quota used up
SELECT count(*) AS count FROM attempt
WHERE task_number = :task_number AND attempt < :attempt AND reason = 'quota'
  AND attempt > coalesce((SELECT max(attempt) FROM attempt WHERE task_number = :task_number AND attempt < :attempt
                          AND reason IS NOT 'quota'), 0);

-- conversation_state: what an agent remembers of a conversation
SELECT state FROM conversation_state WHERE conversation_id = :conversation_id;

-- conversation_remember: what an agent remembers of a conversation, from now on
INSERT INTO conversation_state (conversation_id, agent, state, updated_at)
VALUES (:conversation_id, :agent, :state, :now)
ON CONFLICT (conversation_id) DO UPDATE SET state = excluded.state, updated_at = excluded.updated_at;

-- attempt_list: all attempts of a task
SELECT * FROM attempt WHERE task_number = :task_number ORDER BY attempt;

-- output_insert: the next bytes of a stream; the same bytes again change nothing
INSERT INTO output (task_number, attempt, stream, position, data)
SELECT :task_number, :attempt, :stream, :position, :data
WHERE EXISTS (SELECT 1 FROM task WHERE number = :task_number AND fence = :fence)
ON CONFLICT DO NOTHING;

-- output_end: how many bytes of a stream are stored
SELECT coalesce(max(position + length(data)), 0) AS size FROM output
WHERE task_number = :task_number AND attempt = :attempt AND stream = :stream
  AND position >= coalesce((SELECT max(position) FROM output WHERE task_number = :task_number AND attempt = :attempt
                            AND stream = :stream), 0);

-- output_read: the pieces of a stream that hold its bytes from a position on
SELECT position, data FROM output
WHERE task_number = :task_number AND attempt = :attempt AND stream = :stream
  AND position >= coalesce((SELECT max(position) FROM output WHERE task_number = :task_number AND attempt = :attempt
                            AND stream = :stream AND position <= :from_position), 0)
  AND position < :to_position
ORDER BY position;

-- counter_next: the next value of a counter that never goes back
INSERT INTO counter (name, value) VALUES (:name, 1)
ON CONFLICT (name) DO UPDATE SET value = value + 1
RETURNING value;
