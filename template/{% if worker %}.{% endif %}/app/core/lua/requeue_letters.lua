-- Turn dead letters into jobs again. Each letter goes as its job comes, and only if it is still
-- the letter that was read.
--
-- KEYS: the letters, their ids by time, the bytes that they hold, which are counted again if absent
-- ARGV: the time and the lifetime of a job in milliseconds, then for each letter its id, the
--       letter, its queue, its job. arq's keys of the job are made from the id.
-- Returns for each letter 1, or why it was refused: 0 if it has gone or changed, -1 if a job of
-- its id is in a queue, -2 if a newer job of its id has finished.
local done = {}
for i = 3, #ARGV, 4 do
    local id, letter, queue, job = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    local job_key, result_key = 'arq:job:' .. id, 'arq:result:' .. id
    if redis.call('HGET', KEYS[1], id) ~= letter then
        -- The first reply may have been lost: then the job is there.
        local is_again = redis.pcall('GET', job_key) == job
        table.insert(done, is_again and 1 or 0)
    elseif redis.call('EXISTS', job_key) == 1 then
        table.insert(done, -1)
    elseif redis.call('EXISTS', result_key) == 1 and redis.pcall('GET', result_key) ~= letter then
        -- A key of another type, which `GET` refuses, is not the letter either.
        table.insert(done, -2)
    else
        redis.call('ZADD', queue, ARGV[1], id)
        redis.call('PSETEX', job_key, ARGV[2], job)
        redis.call('DEL', result_key, 'arq:retry:' .. id)
        redis.call('HDEL', KEYS[1], id)
        redis.call('ZREM', KEYS[2], id)
        redis.call('DEL', KEYS[3])
        table.insert(done, 1)
    end
end
return done
