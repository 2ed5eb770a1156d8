-- Set a field of a load test that has not ended, so that a forgotten one is not brought back and its first report stays.
-- KEYS: 1 the hash of the load test
-- ARGV: 1 the field, 2 its value
-- Returns 1, or 0 if the load test is not stored or has its report.
local run, report = unpack(redis.call('HMGET', KEYS[1], 'run', 'report'))
if not run or report then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
