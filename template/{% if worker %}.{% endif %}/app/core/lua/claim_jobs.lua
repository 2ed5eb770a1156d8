-- Lock due jobs of a queue and read them: what arq's Worker asks for each job in start_jobs and run_job.
--
-- KEYS: 1 the queue, 2 the ids to abort, 3 the name of the worker that listens to the queue, 4 its heartbeat
-- ARGV: 1 the time in ms, 2 how many due ids to skip, 3 how many to look at, 4 how many jobs to lock,
--       5 the value of the locks, 6 their time to live in ms,
--       7 '1' if an earlier request of this value got no reply: its locks are the caller's,
--       8 9 10 the prefixes of locks, jobs and counts of tries, 11 the time to live of these counts in s,
--       12 the name of the caller, 13 '1' if it takes over, as a new one does: the last one may be dead
-- Returns: 1 the locked jobs, each as {id, score, job or false, try, 1 if it is to be aborted},
--          2 when to look again in ms: the time itself if due jobs may be left; that of the next deferred job
--          for the worker that listens; or false,
--          3 1 if the caller is that worker

-- Enough for any number of small jobs. A reply with many large ones would hold up the server.
local MAX_BYTES = 1000000
-- How long the name of a worker stays: each renewal wakes the idle ones.
local NAME_MS = 3600000
-- How long it still counts as alive when it was killed.
local HEARTBEAT_MS = 5000
-- How many ids are read at a time: most polls find enough among the first.
local STEP = 100

local lock_prefix, job_prefix, tries_prefix = ARGV[8], ARGV[9], ARGV[10]

-- Return the number of the try that the caller has locked the job for, or nil where it is locked elsewhere.
local function lock(id)
  local key, tries = lock_prefix .. id, tries_prefix .. id
  local count
  if redis.call('SET', key, ARGV[5], 'NX', 'PX', ARGV[6]) then
    -- Most jobs are at their first try, which takes one command.
    if redis.call('SET', tries, 1, 'NX', 'EX', ARGV[11]) then
      return 1
    end
    count = redis.pcall('INCR', tries)
  elseif ARGV[7] == '1' and redis.pcall('GET', key) == ARGV[5] then
    count = redis.pcall('GET', tries)
  else
    return nil
  end
  if not tonumber(count) then
    -- One bad record must not stop the queue.
    redis.call('SET', tries, 1)
    count = 1
  end
  redis.call('EXPIRE', tries, ARGV[11])
  return tonumber(count)
end

local has_aborts = redis.call('EXISTS', KEYS[2]) == 1
local jobs, bytes = {}, 0

local function is_full()
  return #jobs == tonumber(ARGV[4])
end

-- Return 1 if the caller listens to the queue from now on: one worker that has a slot does it for all.
local function listens()
  local listener = redis.pcall('GET', KEYS[3])
  if is_full() then
    if listener == ARGV[12] then
      redis.call('DEL', KEYS[3])
    end
    return 0
  end
  local alive_ms = redis.call('PTTL', KEYS[4])
  if type(listener) == 'string' and listener ~= ARGV[12] and ARGV[13] ~= '1' and alive_ms > 0 then
    return 0
  end
  if listener ~= ARGV[12] or redis.call('PTTL', KEYS[3]) < NAME_MS / 2 then
    redis.pcall('SET', KEYS[3], ARGV[12], 'PX', NAME_MS)
    -- Redis forgets who has read a key when it changes.
    redis.call('EXISTS', KEYS[3])
  end
  if alive_ms < HEARTBEAT_MS / 2 then
    redis.pcall('SET', KEYS[4], 1, 'PX', HEARTBEAT_MS)
  end
  return 1
end

local first, last = tonumber(ARGV[2]), ARGV[2] + ARGV[3]
repeat
  local count = math.min(STEP, last - first)
  local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', first, count)
  for i = 1, #due, 2 do
    local id = due[i]
    local try = lock(id)
    if try then
      local job = redis.pcall('GET', job_prefix .. id)
      if type(job) ~= 'string' then
        job = false
      end
      bytes = bytes + (job and #job or 0)
      -- The end of the job removes the id: this reply may be lost.
      local aborted = has_aborts and type(redis.pcall('ZSCORE', KEYS[2], id)) == 'string'
      table.insert(jobs, {id, due[i + 1], job, try, aborted and 1 or 0})
      if is_full() or bytes > MAX_BYTES then
        return {jobs, ARGV[1], listens()}
      end
    end
  end
  first = first + count
until first >= last or #due < 2 * count
local is_listener, later = listens(), {}
if is_listener == 1 then
  later = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
end
return {jobs, later[2] or false, is_listener}
