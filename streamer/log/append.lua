-- Append a batch of one writer's updates to a node's log, and publish them. One atomic step.
--
-- KEYS  1 log, 2 list of all, 3 writer, 4 jobs, 5 claim; from 6 on the lists of the jobs in the batch, a slot each
-- ARGV  1 id for the log if it has to be created     6 seconds until an idle writer is forgotten
--       2 sequence number of the first entry         7 the sequence number that must have been appended already
--       3 PUBLISH or SPUBLISH                        8 who claims the node and appends, empty if it is not claimed
--       4 records to keep in each list               9 the claim's token
--       5 seconds until an idle job's list          10 number of slots
--         expires, 0 for never                          then the name of each slot's job, as in its key
--       then, per entry: its slot (0 for no job), its packed tail
-- Gives {log id, epoch, next index, writer's last sequence number before, entries appended, why it was refused}
-- Appends nothing where the writer's last sequence number is less than ARGV[7] (which the answer shows), or where it
-- is refused: another has 'claimed' the node, or has 'taken' it from this one, or this one's claim has 'expired'.
-- Fails, and has written nothing of the batch, where a right or memory is missing or a key is of another type.

local log, all, writer, jobs, claim = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local first, publish, keep = tonumber(ARGV[2]), ARGV[3], ARGV[4]
local job_ttl, writer_ttl, after = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local claimant, token, slots = ARGV[8], ARGV[9], tonumber(ARGV[10])
local entries = 10 + slots -- entry number i is ARGV[entries + 2 * i - 1] and the one behind it
local count = (#ARGV - entries) / 2

local char, floor = string.char, math.floor

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

local function push(key, records)
  -- unpack() is bounded by Lua's C stack, at about 8,000 values.
  for from = 1, #records, 1000 do
    redis.call('RPUSH', key, unpack(records, from, math.min(from + 999, #records)))
  end
  redis.call('LTRIM', key, '-' .. keep, -1)
end

local function list_of(job)
  return string.sub(all, 1, -4) .. 'job:' .. job -- without 'all'
end

local seen = tonumber(redis.call('GET', writer) or '0')
local known = redis.call('HMGET', log, 'id', 'epoch', 'next', 'run', 'epochs', 'forgotten')
local id, epoch, next_index = known[1], tonumber(known[2] or 0), tonumber(known[3] or 0)
local run, epochs, forgotten = known[4], known[5], tonumber(known[6] or -1)

local appended = count - math.max(0, math.min(count, seen - first + 1))
if seen < after then
  return {id or '', epoch, next_index, seen, 0, ''}
end
if appended == 0 then
  -- A write, which a server that is no longer the master refuses, and which WAIT can wait for.
  redis.call('EXPIRE', writer, writer_ttl)
  return {id or '', epoch, next_index, seen, 0, ''}
end

local held = redis.call('HMGET', claim, 'holder', 'token', 'until')
local holder = held[1]
if holder or claimant ~= '' then
  local time = redis.call('TIME')
  local alive = holder and time[1] * 1000 + floor(time[2] / 1000) < tonumber(held[3])
  local refused
  if claimant == '' then
    refused = alive and 'claimed'
  elseif held[2] and (holder ~= claimant or held[2] ~= token) then
    refused = 'taken'
  else
    refused = not alive and 'expired'
  end
  if refused then
    return {id or '', epoch, next_index, seen, 0, refused}
  end
end

-- Without INFO one master cannot be told from another. fakeredis, which has none, is only ever one server. A server has
-- another replication id each time that it becomes a master, by a start or a promotion: one that was a replica meanwhile
-- may have lost what it gave out before, and must not go on in the same epoch.
local info = redis.pcall('INFO', 'replication')
local refused = type(info) == 'table' and tostring(info.err) -- fakeredis's is no text
if refused and not string.find(refused, '[uU]nknown %a* ?command') then
  return redis.error_reply('NOPERM to append to a log, the user needs the right to run INFO: ' .. refused)
end
local server = 'unknown'
if not refused then
  -- Where that is not told, at least another server is.
  server = string.match(info, 'master_replid:(%w+)') or string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
end

-- A key of another type, a missing right and a lack of memory fail here, where nothing is written yet, and not half-way.
-- These change nothing: no job's name is empty. ZADD is first, since Redis asks only the first write whether it needs memory.
redis.call('ZADD', jobs, 'XX', 0, '')
redis.call('LTRIM', all, '-' .. keep, -1)
redis.call('EXPIRE', writer, writer_ttl)
redis.call('SET', writer, seen, 'XX', 'EX', writer_ttl)
if id then
  redis.call('HSET', log, 'run', run)
end
if holder and claimant == '' then
  redis.call('HDEL', claim, 'holder') -- its lease is over, and it must not go on after what follows
end

if not id then
  for _, job in ipairs(redis.call('ZRANGE', jobs, 0, -1)) do
    redis.pcall('DEL', list_of(job)) -- which fails in a cluster while the slot moves; see DEL below
  end
  redis.call('DEL', all, jobs)
  id, epoch, next_index, run, epochs, forgotten = ARGV[1], 0, 0, '', '', -1
end

if epoch == 0 then
  epoch = 1
elseif server ~= run then
  -- Two servers that both go on from this state must not call their epochs the same.
  epoch = math.max(epoch + 1, tonumber(redis.call('TIME')[1]))
end
if server ~= run then
  epochs = epochs .. string.format('%.0f:%.0f,', epoch, next_index) -- .. alone would write 1e+14
  local _, kept = string.gsub(epochs, ',', ',')
  if kept > 64 then
    epochs = string.match(epochs, '^[^,]*,(.*)$')
  end
end

local records, by_slot, touched = {}, {}, {}
for i = count - appended + 1, count do
  local slot = tonumber(ARGV[entries + 2 * i - 1])
  local own, before = by_slot[slot], -1
  if slot > 0 then
    if not own then
      own = {key = KEYS[5 + slot], job = ARGV[10 + slot], last = -1}
      by_slot[slot], touched[#touched + 1] = own, own
      local score = redis.call('ZSCORE', jobs, own.job)
      if score then
        own.last = tonumber(score)
        redis.call('LLEN', own.key) -- as above
      else
        redis.call('DEL', own.key) -- what is there, if anything, is left over from a lost log
      end
    end
    before, own.last = own.last, next_index
  end
  local record = header(epoch, next_index, before) .. ARGV[entries + 2 * i]
  records[#records + 1] = record
  if own then
    own[#own + 1] = record
  end
  next_index = next_index + 1
end

push(all, records)
for _, own in ipairs(touched) do
  push(own.key, own)
  if job_ttl > 0 then
    redis.call('EXPIRE', own.key, job_ttl)
  else
    redis.call('PERSIST', own.key)
  end
  redis.call('ZADD', jobs, own.last, own.job)
end

-- A job whose list has expired is remembered for as long as whoever follows it may come back with a cursor: what it
-- missed is told from the job's last index. The jobs that idle longest are the first to go. By pcall, since in a
-- cluster a list that is not there cannot be asked for while its slot moves.
local oldest = next_index - redis.call('LLEN', all)
local lowest = redis.call('ZRANGE', jobs, 0, 1, 'WITHSCORES')
for i = 1, #lowest, 2 do
  if tonumber(lowest[i + 1]) < oldest and redis.pcall('EXISTS', list_of(lowest[i])) == 0 then
    redis.call('ZREM', jobs, lowest[i])
    forgotten = math.max(forgotten, tonumber(lowest[i + 1]))
  end
end

redis.call('HSET', log, 'id', id, 'epoch', epoch, 'next', next_index, 'run', server, 'epochs', epochs,
  'forgotten', string.format('%.0f', forgotten))
redis.call('SET', writer, first + count - 1, 'EX', writer_ttl)

-- Last and by pcall: publishing is but a hint, and must not fail what is written.
local greeting = char(160 + #id) .. id -- the log's id as msgpack text
redis.pcall(publish, all, greeting .. table.concat(records))
for _, own in ipairs(touched) do
  redis.pcall(publish, own.key, greeting .. table.concat(own))
end
return {id, epoch, next_index, seen, appended, ''}
