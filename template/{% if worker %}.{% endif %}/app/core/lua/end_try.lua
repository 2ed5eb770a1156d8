-- End a try of a job that is tried again: what arq's finish_job does then, once however often it is sent.
--
-- KEYS: 1 the queue, 2 the lock of the job
-- ARGV: 1 how the locks of the caller begin, 2 by how many ms the job is deferred, 3 its id,
--       4 for how many ms the lock is kept, or 0
--
-- Without the lock it was done before, and another worker may have the job by now.
local lock = redis.call('GET', KEYS[2])
if not lock or string.sub(lock, 1, #ARGV[1]) ~= ARGV[1] then
  return 0
end
redis.call('ZADD', KEYS[1], 'XX', 'INCR', ARGV[2], ARGV[3])
if ARGV[4] == '0' then
  redis.call('DEL', KEYS[2])
else
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end
return 1
