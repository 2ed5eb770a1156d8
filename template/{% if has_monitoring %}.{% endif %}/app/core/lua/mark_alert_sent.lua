-- Mark a change of an alert as sent.
--
-- KEYS[1]  hash: the known alerts
-- ARGV[1]  the name of the alert
-- ARGV[2]  "firing" or "resolved": the change that was sent

local known = redis.call('HGET', KEYS[1], ARGV[1])
if not known then return 0 end
local alert = cjson.decode(known)
if (ARGV[2] == 'firing') ~= (alert.firing == true) then return 0 end
alert.sent = true
redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(alert))
return 1
