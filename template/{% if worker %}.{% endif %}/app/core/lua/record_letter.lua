-- Keep the failed result of a job as a dead letter, while it is the job's result.
--
-- KEYS[1]  hash: the letters by the id of their job
-- KEYS[2]  sorted set: the ids by the time of the failure
-- KEYS[3]  string: the bytes of all letters, absent where they have to be counted
-- KEYS[4]  string: the result that arq has written, or is about to write
-- ARGV[1]  the id of the job
-- ARGV[2]  SHA-1 of the result in hexadecimal
-- ARGV[3]  the time of the failure, in milliseconds
-- ARGV[4]  letters of a greater age go, in milliseconds by the clock of Redis
-- ARGV[5]  how many letters are kept; the oldest go
-- ARGV[6]  how many bytes are kept; the oldest go
--
-- Returns 1 for a letter, 0 if the job has another result by now or the letter is older than those
-- that are kept, LATER if the job has no result yet.

local result = redis.call('GET', KEYS[4])
if not result then
    return 'LATER'
end
if redis.sha1hex(result) ~= ARGV[2] then
    return 0
end

local limit = tonumber(ARGV[6])
local bytes = tonumber(redis.call('GET', KEYS[3]))
-- Another program may have written any number there, or what is none, such as NaN.
if not bytes or not (bytes >= 0 and bytes <= limit) then
    bytes = 0
    for _, id in ipairs(redis.call('HKEYS', KEYS[1])) do
        bytes = bytes + redis.call('HSTRLEN', KEYS[1], id)
    end
end

bytes = bytes - redis.call('HSTRLEN', KEYS[1], ARGV[1]) + #result
redis.call('HSET', KEYS[1], ARGV[1], result)
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])

local function drop(ids)
    for _, id in ipairs(ids) do
        bytes = bytes - redis.call('HSTRLEN', KEYS[1], id)
        redis.call('HDEL', KEYS[1], id)
        redis.call('ZREM', KEYS[2], id)
    end
end
local now = redis.call('TIME')
local oldest_ms = now[1] * 1000 + now[2] / 1000 - ARGV[4]
drop(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', oldest_ms, 'LIMIT', 0, 1000))
drop(redis.call('ZRANGE', KEYS[2], 0, -1 - ARGV[5]))
while bytes > limit do
    local oldest = redis.call('ZRANGE', KEYS[2], 0, 0)
    if #oldest == 0 then
        break
    end
    drop(oldest)
end
redis.call('SET', KEYS[3], bytes)
return redis.call('HEXISTS', KEYS[1], ARGV[1])
