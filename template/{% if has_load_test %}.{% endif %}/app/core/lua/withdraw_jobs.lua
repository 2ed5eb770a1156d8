-- Take jobs out of a queue again, except those that run already.
-- KEYS: 1 the queue
-- ARGV: the ids
-- Returns how many jobs were withdrawn.
local withdrawn = 0
for _, id in ipairs(ARGV) do
    if redis.call('EXISTS', 'arq:in-progress:' .. id) == 0 then
        withdrawn = withdrawn + redis.call('ZREM', KEYS[1], id)
        redis.call('DEL', 'arq:job:' .. id, 'arq:retry:' .. id)
    end
end
return withdrawn
