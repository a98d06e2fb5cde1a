-- Start a node's log anew and tell its watchers. One atomic step.
--
-- KEYS  1 log, 2 list of all, 3 jobs
-- ARGV  1 id of the new log, 2 PUBLISH or SPUBLISH
-- Gives 1, or 0 where there is no log

local log, all, jobs = KEYS[1], KEYS[2], KEYS[3]
if redis.call('EXISTS', log) == 0 then
  return 0
end
local message = string.char(160 + #ARGV[1]) .. ARGV[1] -- a new log's id and no records
local base = string.sub(all, 1, -4) -- without 'all'
for _, job in ipairs(redis.call('ZRANGE', jobs, 0, -1)) do
  redis.call('DEL', base .. 'job:' .. job)
  redis.call(ARGV[2], base .. 'job:' .. job, message)
end
redis.call('DEL', all, jobs)
redis.call('HSET', log, 'id', ARGV[1], 'epoch', 1, 'next', 0, 'epochs', '1:0,')
redis.call(ARGV[2], all, message)
return 1
