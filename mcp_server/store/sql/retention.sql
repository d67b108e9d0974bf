-- retention_events: of the oldest events, those from before a time. They are in the order of time.
DELETE FROM event
WHERE sequence IN (SELECT sequence FROM event ORDER BY sequence LIMIT :limit) AND at < :before;

-- retention_approvals: of what the user was asked, what came before a time and is over, with its task
DELETE FROM approval
WHERE seq IN (SELECT approval.seq FROM approval CROSS JOIN task ON task.number = approval.task_number
              WHERE approval.created_at < :before AND approval.status <> 'pending' AND task.finished_at < :before
              ORDER BY approval.seq LIMIT :limit);

-- retention_conversation: when the conversation that began with a task was last used, and how much of it is open
SELECT max(later.updated_at) AS used_at,
       coalesce(sum(later.status NOT IN ('completed', 'failed', 'cancelled')), 0) AS open
FROM task AS first JOIN task AS later ON later.conversation_id = first.id
WHERE first.number = :number;

-- retention_next_output: the next task of which output is kept
SELECT min(task_number) AS number FROM output WHERE task_number > :after;

-- retention_ended: a task, if it ended before a time
SELECT number, attempt FROM task WHERE number = :number AND finished_at < :before;

-- retention_output: some of the output of one task
DELETE FROM output
WHERE (task_number, attempt, stream, position) IN (
    SELECT task_number, attempt, stream, position FROM output WHERE task_number = :number LIMIT :limit);

-- retention_next_attempts: the next task of which several attempts are kept
SELECT task_number AS number FROM attempt WHERE task_number > :after AND attempt > 1 ORDER BY task_number LIMIT 1;

-- retention_attempts: the attempts of one task but for its last
DELETE FROM attempt WHERE task_number = :number AND attempt < :attempt;

-- retention_deliveries: of the oldest answered webhooks, those from before a time
DELETE FROM delivery
WHERE (key_id, id) IN (SELECT key_id, id FROM delivery INDEXED BY delivery_by_age
                       WHERE created_at < :before ORDER BY created_at LIMIT :limit);

-- store_free_pages: how many pages of the file hold nothing
PRAGMA freelist_count;

-- store_release_pages: give some of them back to the file system
PRAGMA incremental_vacuum(256);
