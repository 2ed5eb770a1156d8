-- Enqueue a batch of jobs as arq's enqueue_job enqueues one: an id that has a job or a result is left alone.
-- KEYS: 1 the queue
-- ARGV: 1 the score, 2 the lifetime of a job in ms, then an id and a job for each
-- Returns how many jobs were enqueued.
local enqueued = 0
for i = 3, #ARGV, 2 do
    local id = ARGV[i]
    if redis.call('EXISTS', 'arq:job:' .. id, 'arq:result:' .. id) == 0 then
        redis.call('PSETEX', 'arq:job:' .. id, ARGV[2], ARGV[i + 1])
        redis.call('ZADD', KEYS[1], ARGV[1], id)
        enqueued = enqueued + 1
    end
end
return enqueued
