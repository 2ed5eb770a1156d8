-- Queue the next step of a load test, unless the load test is not stored, has its report, or went on already.
-- KEYS: 1 the hash of the load test, 2 the queue
-- ARGV: 1 the number of the step before, 2 the number of this step, 3 the id of its job, 4 the job, 5 the score, 6 the
--       lifetime of the job in ms
-- Returns 1, or 0 if nothing was queued.
local run, step, report = unpack(redis.call('HMGET', KEYS[1], 'run', 'step', 'report'))
if not run or report or (step or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'step', ARGV[2])
redis.call('PSETEX', 'arq:job:' .. ARGV[3], ARGV[6], ARGV[4])
redis.call('ZADD', KEYS[2], ARGV[5], ARGV[3])
return 1
