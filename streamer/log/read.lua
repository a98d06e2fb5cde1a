-- Read a page of a topic's records behind a cursor. One atomic step, bounded in records and in bytes.
--
-- KEYS  1 log, 2 the topic's list, 3 jobs
-- ARGV  1 the cursor's log id, empty for any         4 records at the most
--       2 its epoch, 0 for any                       5 bytes after which no more are read
--       3 its index                                  6 the topic's job, as in its key, empty for all
-- Gives {log id, epoch, head, 1 if the cursor is of another log, the index from which the page follows,
--        records, how many follow, the topic's last index, kept or not, the last index of any job that was forgotten}

local list, asked_id, asked_epoch, index = KEYS[2], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local limit, limit_bytes, job = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]

local length = redis.call('LLEN', list)

-- The first record from a position on, and its index; the list's length and nothing where there is none. Another program
-- may have pushed what is no record: without the header that streamer/core/records.py describes.
local function record_from(position)
  while position < length do
    local record, n = redis.call('LINDEX', list, position), 0
    if string.find(record, '^\150\206....\207........\211') then
      for i = 8, 15 do
        n = n * 256 + string.byte(record, i)
      end
      return position, n
    end
    position = position + 1
  end
  return length
end

local known = redis.call('HMGET', KEYS[1], 'id', 'epoch', 'next', 'epochs', 'forgotten')
local id, epoch, next_index, epochs = known[1] or '', tonumber(known[2] or 0), tonumber(known[3] or 0), known[4] or ''
local head, forgotten = next_index - 1, tonumber(known[5] or -1)
local reset = {id, epoch, head, 1, -1, {}, 0, -1, -1}
if asked_id == '' and index > head or asked_id ~= '' and asked_id ~= id then
  return reset
end
if id == '' then -- whatever the list holds is left over from a lost log
  return {id, epoch, head, 0, -1, {}, 0, -1, -1}
end

-- What an older epoch gave out beyond the start of the next one is lost: go on from there (KIP-101). The same holds for
-- an epoch that the log does not know, which another master began and this one never saw.
if asked_epoch > 0 then
  if asked_epoch < tonumber(string.match(epochs, '^%d+')) then -- where it ended is forgotten
    return reset
  end
  for e, first in string.gmatch(epochs, '(%d+):(%d+),') do
    if tonumber(e) > asked_epoch then
      index = math.min(index, tonumber(first) - 1)
      break
    end
  end
end
index = math.min(index, head)

local last = head
if job ~= '' then
  last = tonumber(redis.call('ZSCORE', KEYS[3], job) or -1)
  if last < 0 then
    length = 0 -- a list that is there nevertheless is left over from a lost log
  end
end

local position
if length == 0 then
  position = 0
elseif job == '' then
  position = math.max(0, index + 1 - (next_index - length))
elseif last <= index then
  position = length
else
  local low, high = 0, length - 1 -- the first record behind the index is in low..high
  while low < high do
    local middle = math.floor((low + high) / 2)
    local at, found = record_from(middle)
    if at >= high or found > index then
      high = middle
    else
      low = at + 1
    end
  end
  -- Of what is no record, only the one before a record may be told an index.
  position = math.max(low, record_from(low) - 1)
end

local records, bytes, some = {}, 0, 1
while #records < limit and bytes < limit_bytes and position < length do
  some = math.min(some, limit - #records)
  for _, record in ipairs(redis.call('LRANGE', list, position, position + some - 1)) do
    records[#records + 1] = record
    bytes = bytes + #record
  end
  position = position + some
  -- As many as fit if they are as large as those so far. The bound is for those that are not.
  some = math.max(1, math.min(64, math.floor((limit_bytes - bytes) * #records / bytes)))
end
return {id, epoch, head, 0, index, records, math.max(0, length - position), last, forgotten}
