-- Append a batch of one writer's updates to a node's log, and publish them. One atomic step.
--
-- KEYS  1 log, 2 list of all, 3 writer, 4 jobs; from 5 on the lists of the jobs in the batch, a slot each
-- ARGV  1 id for the log if it has to be created     5 seconds until an idle job's list expires, 0 for never
--       2 sequence number of the first entry         6 seconds until an idle writer is forgotten
--       3 PUBLISH or SPUBLISH                        7 number of slots
--       4 records to keep in each list               then the name of each slot's job, as in its key
--       then, per entry: its slot (0 for no job), its packed tail
-- Gives {log id, epoch, next index, writer's last sequence number before, entries appended}

local log, all, writer, jobs = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local first, publish, keep = tonumber(ARGV[2]), ARGV[3], ARGV[4]
local job_ttl, writer_ttl, slots = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local entries = 7 + slots -- entry number i is ARGV[entries + 2 * i - 1] and the one behind it
local count = (#ARGV - entries) / 2

local char, floor, sub = string.char, math.floor, string.sub

-- The fixed-width header that streamer/core/records.py describes.
local function uint32(n)
  return char(floor(n / 16777216) % 256, floor(n / 65536) % 256, floor(n / 256) % 256, n % 256)
end
local function uint64(n)
  return uint32(floor(n / 4294967296)) .. uint32(n % 4294967296)
end
local NONE = string.rep(char(255), 8) -- -1 as a 64-bit integer
local function header(epoch, index, previous)
  return char(150, 206) .. uint32(epoch) .. char(207) .. uint64(index) .. char(211)
    .. (previous < 0 and NONE or uint64(previous))
end
local function index_of(record)
  local n = 0
  for i = 8, 15 do
    n = n * 256 + string.byte(record, i)
  end
  return n
end

local function push(key, records)
  -- unpack() is bounded by Lua's C stack, at about 8,000 values.
  for from = 1, #records, 1000 do
    redis.call('RPUSH', key, unpack(records, from, math.min(from + 999, #records)))
  end
  redis.call('LTRIM', key, '-' .. keep, -1)
end

local seen = tonumber(redis.call('GET', writer) or '0')
local known = redis.call('HMGET', log, 'id', 'epoch', 'next', 'run', 'epochs')
local id, epoch, next_index, run, epochs = known[1], tonumber(known[2] or 0), tonumber(known[3] or 0), known[4], known[5]

local appended = count - math.max(0, math.min(count, seen - first + 1))
if appended == 0 then
  return {id or '', epoch, next_index, seen, 0}
end

if not id then
  local base = sub(all, 1, -4) -- without 'all'
  for _, job in ipairs(redis.call('ZRANGE', jobs, 0, -1)) do
    redis.call('DEL', base .. 'job:' .. job)
  end
  redis.call('DEL', all, jobs)
  id, epoch, next_index, run, epochs = ARGV[1], 0, 0, '', ''
end

-- fakeredis has no INFO: its one server then counts as always the same.
local info = redis.pcall('INFO', 'server')
local server = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or 'unknown'
if epoch == 0 or server ~= run then
  epoch = epoch + 1
  epochs = epochs .. epoch .. ':' .. next_index .. ','
  local _, kept = string.gsub(epochs, ',', ',')
  if kept > 64 then
    epochs = string.match(epochs, '^[^,]*,(.*)$')
  end
end

local now = redis.call('TIME')
local now_ms = now[1] * 1000 + floor(now[2] / 1000)
local previous, by_slot = {}, {}
for slot = 1, slots do
  by_slot[slot] = {}
end

local records = {}
for i = count - appended + 1, count do
  local slot = tonumber(ARGV[entries + 2 * i - 1])
  local before = -1
  if slot > 0 then
    before = previous[slot]
    if not before then
      -- A list whose job is not known is left over from a log that was lost.
      if redis.call('ZADD', jobs, now_ms, ARGV[7 + slot]) == 1 then
        redis.call('DEL', KEYS[4 + slot])
      end
      local last = redis.call('LINDEX', KEYS[4 + slot], -1)
      before = last and index_of(last) or -1
    end
    previous[slot] = next_index
  end
  local record = header(epoch, next_index, before) .. ARGV[entries + 2 * i]
  records[#records + 1] = record
  if slot > 0 then
    local own = by_slot[slot]
    own[#own + 1] = record
  end
  next_index = next_index + 1
end

local greeting = char(160 + #id) .. id -- the log's id as msgpack text
push(all, records)
redis.call(publish, all, greeting .. table.concat(records))
for slot = 1, slots do
  if #by_slot[slot] > 0 then
    local key = KEYS[4 + slot]
    push(key, by_slot[slot])
    if job_ttl > 0 then
      redis.call('EXPIRE', key, job_ttl)
    end
    redis.call(publish, key, greeting .. table.concat(by_slot[slot]))
  end
end
if job_ttl > 0 then
  redis.call('ZREMRANGEBYSCORE', jobs, '-inf', now_ms - job_ttl * 1000)
end
redis.call('HSET', log, 'id', id, 'epoch', epoch, 'next', next_index, 'run', server, 'epochs', epochs)
redis.call('SET', writer, first + count - 1, 'EX', writer_ttl)
return {id, epoch, next_index, seen, appended}
