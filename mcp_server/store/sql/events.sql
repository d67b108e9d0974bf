-- event_insert: append to the log
INSERT INTO event (at, kind, subject, session_id, data, caller)
VALUES (:at, :kind, :subject, :session_id, :data, :caller)
RETURNING sequence;
