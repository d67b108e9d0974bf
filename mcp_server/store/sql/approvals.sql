-- approval_insert: a new question to the user
INSERT INTO approval (id, task_number, about, status, action, hash, say, diff, created_at, expires_at)
VALUES (:id, :task_number, :about, 'pending', :action, :hash, :say, :diff, :now, :expires_at);

-- approval_by_id: one approval with what is shown of its task
SELECT approval.*, task.id AS task_id, task.agent, task.session_id, task.caller AS asked_by
FROM approval JOIN task ON task.number = approval.task_number
WHERE approval.id = :id;

-- approval_of_task: what a task waits for
SELECT approval.*, task.id AS task_id, task.agent, task.session_id, task.caller AS asked_by
FROM approval JOIN task ON task.number = approval.task_number
WHERE approval.task_number = :task_number AND approval.status = 'pending';

-- approval_list: newest first
SELECT approval.*, task.id AS task_id, task.agent, task.session_id, task.caller AS asked_by
FROM approval CROSS JOIN task ON task.number = approval.task_number
WHERE approval.seq < :before ORDER BY approval.seq DESC LIMIT :limit;

-- approval_list_pending: those that wait for the user, newest first
SELECT approval.*, task.id AS task_id, task.agent, task.session_id, task.caller AS asked_by
FROM approval INDEXED BY approval_waiting CROSS JOIN task ON task.number = approval.task_number
WHERE approval.status = 'pending' AND approval.seq < :before ORDER BY approval.seq DESC LIMIT :limit;

-- approval_settle: how it ended, once
UPDATE approval SET status = :status, decided_at = :now, decided_by = :decided_by
WHERE id = :id AND status = 'pending';

-- approval_withdraw: nobody needs to answer any more
UPDATE approval SET status = 'withdrawn', decided_at = :now WHERE task_number = :task_number AND status = 'pending';

-- approval_lapse: what was approved held for the attempts until now
UPDATE approval SET lapsed_at = :now WHERE task_number = :task_number AND lapsed_at IS NULL;

-- approval_granted: what the user approved for a task, and still holds
SELECT hash FROM approval
WHERE task_number = :task_number AND status = 'approved' AND lapsed_at IS NULL ORDER BY seq;

-- approval_due: those that nobody answered in time
SELECT approval.*, task.id AS task_id, task.agent, task.session_id, task.caller AS asked_by
FROM approval INDEXED BY approval_pending CROSS JOIN task ON task.number = approval.task_number
WHERE approval.status = 'pending' AND approval.expires_at <= :now ORDER BY approval.expires_at LIMIT :limit;

-- approval_next_due: when the next one expires
SELECT min(expires_at) AS expires_at FROM approval INDEXED BY approval_pending WHERE status = 'pending';
