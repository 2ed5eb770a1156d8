-- Let the index and the hash have the same letters, and have their bytes counted anew.
--
-- KEYS: 1 the letters, 2 their ids by time, 3 their bytes
-- ARGV: none. A letter whose time is lost gets that of now.
for _, id in ipairs(redis.call('HKEYS', KEYS[1])) do
    if not redis.call('ZSCORE', KEYS[2], id) then
        -- A server that is full refuses it, and what is indexed can be purged all the same.
        redis.pcall('ZADD', KEYS[2], redis.call('TIME')[1] * 1000, id)
    end
end
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    if redis.call('HEXISTS', KEYS[1], id) == 0 then
        redis.call('ZREM', KEYS[2], id)
    end
end
redis.call('DEL', KEYS[3])
