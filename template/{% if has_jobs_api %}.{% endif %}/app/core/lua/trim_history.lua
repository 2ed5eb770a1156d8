-- Delete what is too old, by the clock of Redis, which made the ids: that of a host may be wrong.
--
-- KEYS: 1 the history
-- ARGV: 1 the greatest age in milliseconds
redis.call('XTRIM', KEYS[1], 'MINID', redis.call('TIME')[1] * 1000 - ARGV[1])
