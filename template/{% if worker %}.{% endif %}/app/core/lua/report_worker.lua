-- Keep the record of a worker that reports, and let `arq --check` pass on its host.
--
-- KEYS[1]  sorted set: the workers of the queue, by the time at which they last reported
-- KEYS[2]  string: the record of this worker
-- KEYS[3]  string: what `arq --check` reads
-- ARGV[1]  the name of the worker
-- ARGV[2]  the record
-- ARGV[3]  for how long a record is kept, in seconds
-- ARGV[4]  what KEYS[3] holds if no worker of this host has written it
-- ARGV[5]  for how long KEYS[3] is kept, in milliseconds
--
-- Returns the time of Redis: seconds and microseconds.

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then redis.call('DEL', KEYS[1]) end
redis.call('ZADD', KEYS[1], string.format('%.6f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', now - ARGV[3]))
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
redis.call('SET', KEYS[3], ARGV[4], 'NX', 'PX', ARGV[5])
return time
