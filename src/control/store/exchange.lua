-- Takes entries and gives those that are new to the caller.
-- KEYS: epoch, seq, data, feed
-- ARGV: an epoch if there is none; the caller's epoch; its place in the feed; how many it takes; the greatest number that
--       can be right; bytes of an entry; then entries: name, value, name, value, ...
-- Answer: epoch, place, number left out, name, value, name, value, ...
local epoch_key, seq_key, data, feed = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local limit, greatest, longest = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local function number_of(value)
  return tonumber(string.match(value, '^(%d+) '))
end

if redis.call('STRLEN', epoch_key) > 64 then
  return redis.error_reply('ERR the epoch is too long')
end
local epoch = redis.call('GET', epoch_key)
if not epoch then
  epoch = ARGV[1]
  redis.call('SET', epoch_key, epoch)
end

local ended_ones = {}
for i = 7, #ARGV, 2 do
  local name, value = ARGV[i], ARGV[i + 1]
  local known = nil
  if redis.call('HSTRLEN', data, name) <= longest then
    local old = redis.call('HGET', data, name)
    known = old and number_of(old)
  end
  -- The entries of a process that was added to the sum are in there.
  local ended = false
  if string.sub(name, 1, 1) == 'c' then
    local mark = 'r' .. string.sub(name, 2, 17)
    ended = redis.call('HEXISTS', data, mark) == 1
    ended_ones[mark] = ended or nil
  end
  if not ended and (not known or known < number_of(value) or known > greatest) then
    redis.call('HSET', data, name, value)
    redis.call('ZADD', feed, redis.call('INCR', seq_key), name)
  end
end

local place = '0'
if ARGV[2] == epoch then
  place = ARGV[3]
  local last = redis.call('ZREVRANGE', feed, 0, 0, 'WITHSCORES')
  if #last == 0 or tonumber(last[2]) < tonumber(place) then
    place = '0'
  end
end
local out = { epoch, place, 0 }
local list = redis.call('ZRANGEBYSCORE', feed, '(' .. place, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
local left_out = 0
for i = 1, #list, 2 do
  local name = list[i]
  place = list[i + 1]
  if #name <= 200 and redis.call('HSTRLEN', data, name) <= longest then
    local value = redis.call('HGET', data, name)
    if value then
      out[#out + 1] = name
      out[#out + 1] = value
    end
  else
    left_out = left_out + 1
  end
end
out[2] = place
out[3] = left_out
-- Whoever still states them must know.
for mark in pairs(ended_ones) do
  out[#out + 1] = mark
  out[#out + 1] = '1 '
end
return out
