-- Claim a node for one holder, renew its claim, or give it up. One atomic step.
--
-- KEYS  1 claim
-- ARGV  1 holder, 2 token of the claim that it has, 0 for none, 3 for how many ms, 0 to give it up
-- Gives {1 if the holder has the claim now, its token, for how many more ms another has it}
-- A claim that is over is renewed if nobody has claimed the node or written to it meanwhile. It then gets a new token,
-- so that what was sent under the old one, and arrives only now, is refused.

local claim, holder, token, lease = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local known = redis.call('HMGET', claim, 'holder', 'token', 'until')
local last_token = tonumber(known[2] or 0)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local left = known[1] and math.max(0, tonumber(known[3]) - now) or 0
local own = known[1] == holder and (last_token == token or token == 0) -- 0 again where the first answer was lost

if lease == 0 then
  if own then
    redis.call('HDEL', claim, 'holder')
  end
  return {0, token, 0}
end
if not own and (left > 0 or token > 0 and known[2]) then
  return {0, token, left}
end
if own then
  token = last_token
end
if not own or left == 0 then
  -- No less than the time, so that also after the loss of this key no token is given out twice.
  token = math.max(last_token + 1, now)
end
local number = string.format('%.0f', token)
redis.call('HSET', claim, 'holder', holder, 'token', number, 'until', string.format('%.0f', now + lease))
return {1, token, 0}
