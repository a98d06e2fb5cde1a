-- Note in a job's index that a node runs the job, and tell those who follow the job if that is new. One atomic step.
--
-- KEYS  1 index, a sorted set: the nodes by when they were noted last (ms since 1970)
-- ARGV  1 node                                          3 how many nodes it keeps, those noted last
--       2 seconds until it expires, 0 for never         4 PUBLISH or SPUBLISH
-- Gives 1 where the node is new to the index, else 0

local index, node, ttl, keep, publish = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]

local left = redis.call('TTL', index) -- -2 where there is no index, -1 where it never expires
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local new = redis.call('ZADD', index, now, node)
redis.call('ZREMRANGEBYRANK', index, 0, -keep - 1)

-- Of nodes that keep a job for different times, the longest counts.
if ttl == 0 then
  redis.call('PERSIST', index)
elseif left == -2 or (left >= 0 and left < ttl) then
  redis.call('EXPIRE', index, ttl)
end

-- Last and by pcall: publishing is but a hint, and must not fail what is written.
if new == 1 then
  redis.pcall(publish, index, node)
end
return new
