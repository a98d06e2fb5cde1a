-- Read a page of a topic's records behind a cursor. One atomic step, bounded in records and in bytes.
--
-- KEYS  1 log, 2 the topic's list
-- ARGV  1 the cursor's log id, empty for any         4 records at the most
--       2 its epoch, 0 for any                       5 bytes after which no more are read
--       3 its index                                  6 1 where the list is a job's, else 0
-- Gives {log id, epoch, head, 1 if the cursor is of another log, the index from which the page follows,
--        records, how many follow}

local list, asked_id, asked_epoch, index = KEYS[2], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local limit, limit_bytes, of_job = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1'

local function index_at(position)
  local record, n = redis.call('LINDEX', list, position), 0
  for i = 8, 15 do
    n = n * 256 + string.byte(record, i)
  end
  return n
end

local known = redis.call('HMGET', KEYS[1], 'id', 'epoch', 'next', 'epochs')
local id, epoch, next_index, epochs = known[1] or '', tonumber(known[2] or 0), tonumber(known[3] or 0), known[4] or ''
local head = next_index - 1
if asked_id == '' and index > head or asked_id ~= '' and (asked_id ~= id or asked_epoch > epoch) then
  return {id, epoch, head, 1, -1, {}, 0}
end
if id == '' then -- whatever the list holds is left over from a lost log
  return {id, epoch, head, 0, -1, {}, 0}
end

-- What an older epoch gave out beyond the start of the next one is lost: go on from there (KIP-101).
if asked_epoch > 0 then
  local oldest = tonumber(string.match(epochs, '^%d+'))
  if asked_epoch < oldest - 1 then -- where the next one began is forgotten
    return {id, epoch, head, 1, -1, {}, 0}
  end
  for e, first in string.gmatch(epochs, '(%d+):(%d+),') do
    if tonumber(e) > asked_epoch then
      index = math.min(index, tonumber(first) - 1)
      break
    end
  end
end
index = math.min(index, head)

local length = redis.call('LLEN', list)
local position
if length == 0 then
  position = 0
elseif not of_job then
  position = math.max(0, index + 1 - (next_index - length))
elseif index_at(-1) <= index then
  position = length
else
  local low, high = 0, length - 1 -- the first record behind the index is in low..high
  while low < high do
    local middle = math.floor((low + high) / 2)
    if index_at(middle) > index then
      high = middle
    else
      low = middle + 1
    end
  end
  position = low
end

local records, bytes = {}, 0
while #records < limit and bytes < limit_bytes and position < length do
  local some = redis.call('LRANGE', list, position, position + math.min(64, limit - #records) - 1)
  for _, record in ipairs(some) do
    records[#records + 1] = record
    bytes = bytes + #record
  end
  position = position + #some
end
return {id, epoch, head, 0, index, records, length - position}
