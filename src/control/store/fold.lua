-- Adds what an ended process has counted to the sum of all ended ones, and forgets its entries.
-- KEYS: seq, data, feed
-- ARGV: the process; bytes of an entry; then names of users
local seq_key, data, feed = KEYS[1], KEYS[2], KEYS[3]
local node, longest = ARGV[1], tonumber(ARGV[2])

local function counter(name)
  if redis.call('HSTRLEN', data, name) > longest then
    return nil
  end
  local value = redis.call('HGET', data, name)
  local numbers = {}
  for number in string.gmatch(value or '', '%d+') do
    numbers[#numbers + 1] = tonumber(number)
  end
  return #numbers == 9 and numbers or nil
end

local function put(name, value)
  redis.call('HSET', data, name, value)
  redis.call('ZADD', feed, redis.call('INCR', seq_key), name)
end

-- From now on nobody may state its entries.
put('r' .. node, '1 ')
for i = 3, #ARGV do
  local of_node, of_all = 'c' .. node .. ARGV[i], 'c0000000000000000' .. ARGV[i]
  local one, all = counter(of_node), counter(of_all)
  if one then
    local sum = one
    if all then
      -- number, born, up, down, failures, seen, period, start, kind
      local newer = one[2] > all[2]
      sum = newer and one or all
      if one[2] == all[2] then
        for place = 3, 5 do
          sum[place] = one[place] + all[place]
        end
        sum[6] = math.max(one[6], all[6])
        if one[9] == all[9] and (one[8] == all[8] or one[9] == 100) then
          sum[7] = one[7] + all[7]
        elseif one[8] > all[8] then
          sum[7], sum[8], sum[9] = one[7], one[8], one[9]
        end
      end
      sum[1] = all[1] + 1
    end
    for place = 1, 9 do
      sum[place] = string.format('%.0f', sum[place])
    end
    put(of_all, table.concat(sum, ' '))
  end
  redis.call('HDEL', data, of_node)
  redis.call('ZREM', feed, of_node)
end
return #ARGV - 2
