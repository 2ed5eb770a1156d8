-- Delete dead letters, and the results that they were: the next sweep would find them again.
--
-- KEYS: the letters, their ids by time, the bytes that they hold, which are counted again if absent
-- ARGV: for each letter its id, and the letter that was read or '' for any. arq's key of the
--       result is made from the id.
-- Returns how many letters there were.
local done = 0
for i = 1, #ARGV, 2 do
    local id, letter, result_key = ARGV[i], ARGV[i + 1], 'arq:result:' .. ARGV[i]
    local kept = redis.call('HGET', KEYS[1], id)
    if kept and (letter == '' or kept == letter) then
        if redis.call('TYPE', result_key).ok == 'string' and redis.call('GET', result_key) == kept then
            redis.call('DEL', result_key)
        end
        redis.call('HDEL', KEYS[1], id)
        redis.call('ZREM', KEYS[2], id)
        redis.call('DEL', KEYS[3])
        done = done + 1
    end
end
return done
