-- Start a node's log anew and tell its watchers. One atomic step.
--
-- KEYS  1 log, 2 list of all, 3 jobs
-- ARGV  1 id of the new log, 2 PUBLISH or SPUBLISH
-- Gives 1, or 0 where there is no log

local log, all, jobs = KEYS[1], KEYS[2], KEYS[3]
if redis.call('EXISTS', log) == 0 then
  return 0
end
local lists = {all}
for _, job in ipairs(redis.call('ZRANGE', jobs, 0, -1)) do
  lists[#lists + 1] = string.sub(all, 1, -4) .. 'job:' .. job -- without 'all'
end
for _, list in ipairs(lists) do
  redis.pcall('DEL', list) -- which fails in a cluster, for one that is not there, while the slot moves
end
redis.call('DEL', jobs)
redis.call('HSET', log, 'id', ARGV[1], 'epoch', 1, 'next', 0, 'epochs', '1:0,', 'forgotten', -1)

-- Last and by pcall: publishing is but a hint, and must not fail what is written.
local message = string.char(160 + #ARGV[1]) .. ARGV[1] -- a new log's id and no records
for _, list in ipairs(lists) do
  redis.pcall(ARGV[2], list, message)
end
return 1
