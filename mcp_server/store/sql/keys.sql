-- key_insert: a new API key; only its hash is kept
INSERT INTO api_key (id, name, hash, scopes, created_at) VALUES (:id, :name, :hash, :scopes, :now)
RETURNING *;

-- key_by_hash: the key that a token belongs to, revoked or not
SELECT * FROM api_key WHERE hash = :hash;

-- key_by_name: a living key by its name or id
SELECT * FROM api_key WHERE (name = :name OR id = :name) AND revoked_at IS NULL;

-- key_list: all keys, newest first
SELECT id, name, scopes, created_at, revoked_at FROM api_key ORDER BY created_at DESC, id;

-- key_count: how many keys there ever were
SELECT count(*) AS count FROM api_key;

-- key_revoke: end a key
UPDATE api_key SET revoked_at = :now WHERE id = :id AND revoked_at IS NULL
RETURNING id, name, scopes, created_at, revoked_at;

-- delivery_begin: remember a delivery; the first one stays
INSERT INTO delivery (key_id, id, fingerprint, created_at) VALUES (:key_id, :id, :fingerprint, :now)
ON CONFLICT DO NOTHING;

-- delivery_by_id: what is known of a delivery
SELECT * FROM delivery WHERE key_id = :key_id AND id = :id;

-- delivery_answer: what was answered to it
UPDATE delivery SET status = :status, answer = :answer WHERE key_id = :key_id AND id = :id;
