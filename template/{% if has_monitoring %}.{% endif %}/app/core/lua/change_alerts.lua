-- Compare what a look found with the alerts that are known, and return the changes to tell.
--
-- KEYS[1]  hash: the known alerts by name, each as JSON of {firing, since, changed, sent, ended}
-- ARGV[1]  for how many seconds a problem or its end has to last before it counts
-- ARGV[2]  for how many seconds after its end an alert does not fire again
-- ARGV[3…] pairs: the name of each alert, and the words of its problem or an empty text
--
-- Returns triples: name, since when in seconds, "firing" or "resolved". A change is returned by each
-- check until `mark_alert_sent` has marked it, so that a worker that is killed in between hides nothing.

local hold, quiet = tonumber(ARGV[1]), tonumber(ARGV[2])
local now = tonumber(redis.call('TIME')[1])
local changes = {}
-- Another program may have written the numbers: `cjson` cannot encode NaN, and Python shows no time
-- after the year 9999.
local function to_time(value)
    value = tonumber(value)
    if value and value >= 0 and value < 253402300800 then return value end
end
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then redis.call('DEL', KEYS[1]) end
for i = 3, #ARGV, 2 do
    local name, is_bad = ARGV[i], ARGV[i + 1] ~= ''
    local is_json, alert = pcall(cjson.decode, redis.call('HGET', KEYS[1], name) or '{}')
    if not is_json or type(alert) ~= 'table' then alert = {} end
    local since, changed, ended = to_time(alert.since), to_time(alert.changed), to_time(alert.ended)
    local firing, sent = alert.firing == true and since ~= nil, alert.sent ~= false
    if is_bad == firing then
        -- Nothing has changed, or what had begun to change did not last.
        changed = nil
    else
        changed = math.min(changed or now, now)
        local is_quiet = is_bad and ended and now >= ended and now - ended < quiet
        if now - changed >= hold and not is_quiet then
            firing, sent = is_bad, false
            if is_bad then since = changed else ended = now end
            changed = nil
        end
    end
    if not sent and since then
        table.insert(changes, name)
        table.insert(changes, string.format('%d', since))
        table.insert(changes, firing and 'firing' or 'resolved')
    end
    if since or changed then
        local known = {firing = firing, since = since, changed = changed, sent = sent, ended = ended}
        redis.call('HSET', KEYS[1], name, cjson.encode(known))
    else
        redis.call('HDEL', KEYS[1], name)
    end
end
return changes
