-- Who may be claimed next, and how many wait: kept by triggers in the transaction of each change, so that neither
-- question walks over what waits. All of it follows from the tasks; the doctor can reckon it anew.

-- Of a queued follow-up: an earlier task of its conversation has not ended.
ALTER TABLE task ADD COLUMN behind_conversation INTEGER NOT NULL DEFAULT 0;
-- Of a queued task whose conversation has come to it: another of its agent comes first in its lane. Whether somebody
-- runs in the lane is not in here: the claim asks that of the few that are at the front.
ALTER TABLE task ADD COLUMN behind_lane INTEGER NOT NULL DEFAULT 0;

-- The follow-ups that have not ended. The first task of a conversation is found by its id, which the conversation has;
-- so what never gets a follow-up has nothing to write here.
CREATE INDEX task_open ON task (conversation_id, number)
WHERE parent_id IS NOT NULL AND status NOT IN ('completed', 'failed', 'cancelled');
CREATE INDEX task_line ON task (lane, agent, priority DESC, number)
WHERE lane IS NOT NULL AND status = 'queued' AND behind_conversation = 0;
CREATE INDEX task_front ON task (agent, priority DESC, number)
WHERE status = 'queued' AND behind_conversation = 0 AND behind_lane = 0;
DROP INDEX task_queue;

-- What the marks of each task must be. Those of a lane follow from those of the conversations.
CREATE VIEW task_place AS
SELECT number,
       parent_id IS NOT NULL AND status = 'queued'
           AND (EXISTS (SELECT 1 FROM task AS root
                        WHERE root.id = task.conversation_id
                          AND root.status NOT IN ('completed', 'failed', 'cancelled'))
                OR EXISTS (SELECT 1 FROM task AS earlier
                           WHERE earlier.conversation_id = task.conversation_id AND earlier.number < task.number
                             AND earlier.parent_id IS NOT NULL
                             AND earlier.status NOT IN ('completed', 'failed', 'cancelled'))) AS behind_conversation,
       lane IS NOT NULL AND status = 'queued' AND task.behind_conversation = 0
           AND number <> (SELECT rival.number FROM task AS rival
                          WHERE rival.lane = task.lane AND rival.agent = task.agent AND rival.lane IS NOT NULL
                            AND rival.status = 'queued' AND rival.behind_conversation = 0
                          ORDER BY rival.priority DESC, rival.number LIMIT 1) AS behind_lane
FROM task;

UPDATE task SET behind_conversation = 1
WHERE parent_id IS NOT NULL AND status = 'queued'
  AND (SELECT place.behind_conversation FROM task_place AS place WHERE place.number = task.number);
UPDATE task SET behind_lane = 1
WHERE lane IS NOT NULL AND status = 'queued'
  AND (SELECT place.behind_lane FROM task_place AS place WHERE place.number = task.number);

CREATE TABLE queue_length (
    agent TEXT PRIMARY KEY,
    count INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO queue_length (agent, count) SELECT agent, count(*) FROM task WHERE status = 'queued' GROUP BY agent;

-- In a conversation, a change concerns the task itself and the first open one after it: whatever comes later stands
-- behind that one.
CREATE TRIGGER task_conversation_insert AFTER INSERT ON task WHEN NEW.parent_id IS NOT NULL AND NEW.status = 'queued'
BEGIN
    UPDATE task SET behind_conversation = 1
    WHERE number = NEW.number
      AND (SELECT place.behind_conversation FROM task_place AS place WHERE place.number = NEW.number);
END;
CREATE TRIGGER task_conversation_self AFTER UPDATE OF status ON task
WHEN NEW.parent_id IS NOT NULL AND (OLD.status = 'queued') <> (NEW.status = 'queued')
BEGIN
    UPDATE task SET behind_conversation = 1 - behind_conversation
    WHERE number = NEW.number
      AND behind_conversation <> (SELECT place.behind_conversation FROM task_place AS place
                                  WHERE place.number = NEW.number);
END;
CREATE TRIGGER task_conversation_next AFTER UPDATE OF status ON task
WHEN (OLD.status IN ('completed', 'failed', 'cancelled')) <> (NEW.status IN ('completed', 'failed', 'cancelled'))
BEGIN
    UPDATE task SET behind_conversation = 1 - behind_conversation
    WHERE number = (SELECT min(number) FROM task
                    WHERE conversation_id = NEW.conversation_id AND number > NEW.number
                      AND parent_id IS NOT NULL AND status NOT IN ('completed', 'failed', 'cancelled'))
      AND behind_conversation <> (SELECT place.behind_conversation FROM task_place AS place
                                  WHERE place.number = task.number);
END;
CREATE TRIGGER task_conversation_delete AFTER DELETE ON task
WHEN OLD.status NOT IN ('completed', 'failed', 'cancelled')
BEGIN
    UPDATE task SET behind_conversation = 0
    WHERE number = (SELECT min(number) FROM task
                    WHERE conversation_id = OLD.conversation_id AND number > OLD.number
                      AND parent_id IS NOT NULL AND status NOT IN ('completed', 'failed', 'cancelled'))
      AND behind_conversation <> (SELECT place.behind_conversation FROM task_place AS place
                                  WHERE place.number = task.number);
END;

-- In a lane, a change concerns the task itself and the first two of its line: who is first, and who was.
CREATE TRIGGER task_lane_insert AFTER INSERT ON task WHEN NEW.lane IS NOT NULL AND NEW.status = 'queued'
BEGIN
    UPDATE task SET behind_lane = 1
    WHERE number = NEW.number AND (SELECT place.behind_lane FROM task_place AS place WHERE place.number = NEW.number);
    UPDATE task SET behind_lane = 1
    WHERE number = (SELECT number FROM task
                    WHERE lane = NEW.lane AND agent = NEW.agent AND lane IS NOT NULL
                      AND status = 'queued' AND behind_conversation = 0
                    ORDER BY priority DESC, number LIMIT 1 OFFSET 1)
      AND behind_lane = 0;
END;
CREATE TRIGGER task_lane_update AFTER UPDATE OF status, lane, priority, behind_conversation ON task
WHEN (OLD.lane IS NOT NULL OR NEW.lane IS NOT NULL) AND (OLD.status = 'queued' OR NEW.status = 'queued')
BEGIN
    UPDATE task SET behind_lane = 1 - behind_lane
    WHERE number = NEW.number
      AND behind_lane <> (SELECT place.behind_lane FROM task_place AS place WHERE place.number = NEW.number);
    UPDATE task SET behind_lane = 0
    WHERE number = (SELECT number FROM task
                    WHERE lane = NEW.lane AND agent = NEW.agent AND lane IS NOT NULL
                      AND status = 'queued' AND behind_conversation = 0
                    ORDER BY priority DESC, number LIMIT 1)
      AND behind_lane = 1;
    UPDATE task SET behind_lane = 1
    WHERE number = (SELECT number FROM task
                    WHERE lane = NEW.lane AND agent = NEW.agent AND lane IS NOT NULL
                      AND status = 'queued' AND behind_conversation = 0
                    ORDER BY priority DESC, number LIMIT 1 OFFSET 1)
      AND behind_lane = 0;
    UPDATE task SET behind_lane = 0
    WHERE number = (SELECT number FROM task
                    WHERE lane = OLD.lane AND agent = OLD.agent AND lane IS NOT NULL
                      AND status = 'queued' AND behind_conversation = 0
                    ORDER BY priority DESC, number LIMIT 1)
      AND behind_lane = 1;
END;
CREATE TRIGGER task_lane_delete AFTER DELETE ON task WHEN OLD.lane IS NOT NULL AND OLD.status = 'queued'
BEGIN
    UPDATE task SET behind_lane = 0
    WHERE number = (SELECT number FROM task
                    WHERE lane = OLD.lane AND agent = OLD.agent AND lane IS NOT NULL
                      AND status = 'queued' AND behind_conversation = 0
                    ORDER BY priority DESC, number LIMIT 1)
      AND behind_lane = 1;
END;

CREATE TRIGGER queue_length_insert AFTER INSERT ON task WHEN NEW.status = 'queued'
BEGIN
    INSERT INTO queue_length (agent, count) VALUES (NEW.agent, 1)
    ON CONFLICT (agent) DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER queue_length_update AFTER UPDATE OF status ON task
WHEN (OLD.status = 'queued') <> (NEW.status = 'queued')
BEGIN
    INSERT INTO queue_length (agent, count) VALUES (NEW.agent, (NEW.status = 'queued') - (OLD.status = 'queued'))
    ON CONFLICT (agent) DO UPDATE SET count = count + excluded.count;
END;
CREATE TRIGGER queue_length_delete AFTER DELETE ON task WHEN OLD.status = 'queued'
BEGIN
    UPDATE queue_length SET count = count - 1 WHERE agent = OLD.agent;
END;
