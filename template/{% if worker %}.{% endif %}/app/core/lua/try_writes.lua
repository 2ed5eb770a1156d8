-- Make the writes of a sender, without leaving a job: where this is refused, a job would be too.
--
-- KEYS: 1 a key for this, 2 the key of a job that does not exist, then the queues
-- ARGV: none
-- Returns 1, or an error.
redis.call('SET', KEYS[1], 1, 'EX', 60)
redis.call('EXISTS', KEYS[2])
redis.call('PSETEX', KEYS[2], 1000, '')
for i = 3, #KEYS do
    -- XX changes only members that exist.
    local reply = redis.pcall('ZADD', KEYS[i], 'XX', 0, KEYS[2])
    -- A queue of another type harms only itself.
    if type(reply) == 'table' and reply.err and not string.find(reply.err, 'WRONGTYPE') then return reply end
end
return 1
