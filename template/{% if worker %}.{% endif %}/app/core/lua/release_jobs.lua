-- Give back jobs that claim_jobs has locked and no worker has started.
--
-- KEYS: none
-- ARGV: 1 the value of the locks, 2 3 the prefixes of locks and counts of tries, then the ids
for i = 4, #ARGV do
  local lock, tries = ARGV[2] .. ARGV[i], ARGV[3] .. ARGV[i]
  if redis.call('GET', lock) == ARGV[1] then
    redis.call('DEL', lock)
    -- A count of none would be that of a job which is tried again.
    if redis.call('DECR', tries) < 1 then redis.call('DEL', tries) end
  end
end
