-- Abort a job as arq does, but only one that is in its queue: arq keeps the id of any other and
-- would abort a later job of that id. A deferred job becomes due, so that a worker drops it now.
--
-- KEYS: the queue, arq's set of jobs to abort
-- ARGV: the job's id, the time in milliseconds
-- Returns 1, or 0 if the job is not in the queue.
if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then return 0 end
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score then return 0 end
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
if tonumber(score) > tonumber(ARGV[2]) then redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1]) end
return 1
